"""Memory while a set grows to 200,000 rows, under a painter that costs nothing: it must stay flat.

    python benchmarks/growing.py [--num-images 200000]

The painter's images are noise of 16 px. What is left is ours: filters, refills, shards, gallery, card, near
duplicates.
"""

import argparse
import tempfile
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from synth.dataset.building import DatasetBuilder
from synth.memory import peak_memory_bytes
from synth.settings import SceneSettings
from synth.teacher.teacher import TeacherDefaults


class Painter:
    """What `synth.dataset.building` asks of a teacher, for nothing."""

    name, fingerprint, dtype, device = "nobody", "0", torch.float32, torch.device("cpu")
    defaults = TeacherDefaults(image_size=16, num_inference_steps=1, guidance_scale=1.0)

    most_at_once = None

    def __init__(self) -> None:
        self.pipeline = self

    def check_prompts(self, prompts: list[str]) -> None:
        """All are short."""

    def check_size(self, height: int, width: int) -> None:
        """All will do."""

    def __call__(self, prompts: list[str], generator: list[torch.Generator], **_: Any) -> Any:
        """Noise that follows from each image's own seed."""
        images = [np.random.default_rng(each.initial_seed()).random((16, 16, 3)) for each in generator]
        return SimpleNamespace(images=np.stack(images), nsfw_content_detected=None)

    @staticmethod
    def numpy_to_pil(images: np.ndarray) -> list[Image.Image]:
        """As diffusers has it."""
        return [Image.fromarray((image * 255).astype(np.uint8)) for image in images]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=200_000)
    args = parser.parse_args()
    settings = SceneSettings(
        template="a {thing}",
        slots={"thing": [f"thing {number}" for number in range(1000)]},
        count=args.num_images,
        batch_size=50,
        shard_size=1000,
        filters={"near_duplicates": 1},
    )
    from tqdm import tqdm

    with tempfile.TemporaryDirectory() as folder, tqdm(total=args.num_images, unit="image") as bar:
        painting = DatasetBuilder(Painter(), settings, folder)  # type: ignore[arg-type]
        started = time.perf_counter()
        for number in painting.missing_shards():
            painting.paint_shard(number, bar)
            if (number + 1) % (args.num_images // 10_000 or 1) == 0 or number == 0:
                tqdm.write(f"{(number + 1) * 1000:8} rows  peak memory {_peak():.0f} MiB")
        painting.finish(1.0, bar)
        tqdm.write(
            f"finished  peak memory {_peak():.0f} MiB, {args.num_images / (time.perf_counter() - started):.0f} rows/s"
        )


def _peak() -> float:
    return peak_memory_bytes("cpu") / 2**20


if __name__ == "__main__":
    main()
