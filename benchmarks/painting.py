"""Painting a dataset, compared with a bare diffusers loop: the same pipeline, batch, steps and threads, in one run.

    python benchmarks/painting.py [--num-images 60] [--teacher miniature]

Both take turns, so that other load on the machine falls on both. The bare loop holds its images in memory and writes
nothing; ours filters, encodes and writes shards, gallery and card.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from tqdm import tqdm

from flows.config.loading import load_recipe
from synth.dataset.building import synthesize
from synth.dataset.generate import completed
from synth.dataset.prompts import Template
from synth.settings import SceneSettings, TeacherSettings
from synth.teacher.teacher import Teacher

_TURNS = 4


def ours(teacher: Teacher, settings: SceneSettings, folder: Path) -> float:
    """Paint the dataset and store it. Returns the seconds."""
    started = time.perf_counter()
    synthesize(teacher, settings, folder, progress=False)
    return time.perf_counter() - started


def bare(teacher: Teacher, settings: SceneSettings) -> float:
    """Paint the same prompts as diffusers' documentation does. Returns the seconds."""
    settings = completed(settings, teacher)
    prompts = [Template(settings).scene(index).prompt for index in range(settings.count)]
    started = time.perf_counter()
    images = []
    for start in range(0, len(prompts), settings.batch_size):
        images += teacher.pipeline(
            prompts[start : start + settings.batch_size],
            height=settings.image_size,
            width=settings.image_size,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=torch.Generator().manual_seed(start),
        ).images
    assert len(images) == settings.count
    return time.perf_counter() - started


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--num-images", type=int, default=60, help="images a turn, a multiple of the batch of 10 (default: 60)"
    )
    parser.add_argument("--teacher", default="miniature")
    args = parser.parse_args()
    teacher = Teacher.load(TeacherSettings(id=args.teacher))
    scenes = load_recipe("sofas").to_paint().model_copy(update={"count": args.num_images})
    bare(teacher, scenes.model_copy(update={"count": 10}))  # warms up
    seconds = {"ours": 0.0, "bare": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        for turn in tqdm(range(_TURNS)):
            seconds["bare"] += bare(teacher, scenes)
            seconds["ours"] += ours(teacher, scenes, Path(folder) / str(turn))
    images = _TURNS * args.num_images
    for name, value in seconds.items():
        print(f"{name}  {images / value:.3f} images a second")
    print(f"ours / bare  {seconds['bare'] / seconds['ours']:.3f}")


if __name__ == "__main__":
    main()
