"""Scores the miniature and checks the bars that it is held to.

    python -m synth.miniature.score --num 200

Captions of unseen scenes are painted with plain diffusers and read by the strict factor readers. The exit code is 1
if a bar is missed.
"""

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from synth.errors import TeacherError, one_line_errors
from synth.files import write_text
from synth.images.encoding import save_grid
from synth.pixels import to_float
from synth.psnr import psnr_from_mse
from synth.state import read_json, reading
from synth.teacher.hub import TeacherDefaults
from synth.world.captions import full_caption, paraphrase
from synth.world.readers import FactorReader
from synth.world.scenes import render, sample_scene

WEIGHTS = Path(__file__).parent / "weights"
BARS = {
    **{"vae_psnr": 30.0, "color": 0.95, "flower": 0.95, "character": 0.97, "weather": 0.97, "material": 0.92},
    "everything": 0.90,
}
"""Minima for new weights: in decibels, or shares of samples that show what their caption names."""


def score(
    folder: Path,
    out: Path,
    num: int = 200,
    device: str = "cpu",
    reader: Path | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
) -> dict[str, float]:
    """Paint `num` unseen captions, read them, and reconstruct as many unseen drawings.

    Writes `samples.png` (its last row is the null text) and `score.json` to `out`.

    Args:
        folder: of the pipeline.
        out: where the results go.
        num: captions, of the development split.
        device: where to paint.
        reader: the readers' folder; None takes those in `out`; without any, their metrics are left out.
        num_inference_steps: of the solver (default: the folder's).
        guidance_scale: of the samples (default: the folder's).

    Returns:
        For each factor the share of samples that show what their caption names; "everything", the share in which all
        of it is right; "paraphrased", the same for half as many captions in words that training never used;
        "vae_psnr" in dB; "kid" to held-out drawings and "kid_floor", the same between two sets of drawings (see
        `kernel_distance`); "ms_per_call", what a network call costs for an image, on this machine as busy as it is.

    Raises:
        TeacherError: if the folder is not a whole pipeline, or its readers are damaged.
    """
    from diffusers import StableDiffusionPipeline

    remedy = "assemble the folder again, or name another"
    with reading(folder, TeacherError, remedy):
        pipeline = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True).to(device)
    pipeline.set_progress_bar_config(disable=True)
    defaults: TeacherDefaults = read_json(folder / "distillery.json", TeacherDefaults, TeacherError, remedy)
    steps = num_inference_steps or defaults.num_inference_steps
    guidance = guidance_scale or defaults.guidance_scale
    scenes = [sample_scene("development", 100_000 + index) for index in range(num)]
    written = [full_caption(scene) for scene in scenes]
    reworded = [paraphrase(scene) for scene in scenes[: num // 2]]
    captions = [caption for caption, _ in written + reworded] + [""] * 12

    def paint(start: int) -> NDArray[np.uint8]:
        batch = captions[start : start + 20]
        generators = [torch.Generator("cpu").manual_seed(start + offset) for offset in range(len(batch))]
        painted: NDArray[np.float32] = pipeline(
            batch, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
        ).images
        return (painted * 255).round().astype(np.uint8)

    starts = tqdm(range(0, len(captions), 20), desc="painting", leave=False)
    painted = np.concatenate([paint(start) for start in starts])
    images, others, nulls = np.split(painted, [num, len(captions) - 12])
    save_grid([*_rows(images[:60]), nulls], out / "samples.png")
    drawn = np.stack([render(scene).image for scene in scenes])
    result = {"num": float(num), "num_inference_steps": float(steps), "guidance_scale": float(guidance)}
    result["vae_psnr"] = _vae_psnr(pipeline.vae, drawn)
    result["ms_per_call"] = _milliseconds(pipeline)
    folder_of_reader = reader or out / "reader"
    if (folder_of_reader / "reader.safetensors").exists():
        factor_reader = FactorReader.load(folder_of_reader)
        result |= _obedience(factor_reader.read(images), [named for _, named in written])
        again = _obedience(factor_reader.read(others), [named for _, named in reworded])
        result["paraphrased"] = again["everything"]
        unseen = np.stack([render(sample_scene("development", 200_000 + index)).image for index in range(num)])
        features = [factor_reader.features(each) for each in (images, drawn, unseen)]
        result["kid"] = kernel_distance(features[0], features[2])
        result["kid_floor"] = kernel_distance(features[1], features[2])
    result = {key: round(value, 4) for key, value in result.items()}
    write_text(out / "score.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result), flush=True)
    return result


def kernel_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """KID (Binkowski et al. 2018, arXiv 1801.01401) in the readers' feature space: the unbiased squared maximum mean
    discrepancy under the kernel (x.y / d + 1)^3, of features (N, d) and (M, d) scaled so that `b` has mean square 1.
    About 0 for two sets of one distribution."""
    scale = float(np.sqrt(np.mean(b.astype(np.float64) ** 2)))
    x, y = a.astype(np.float64) / scale, b.astype(np.float64) / scale

    def kernel(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        values: NDArray[np.float64] = (u @ v.T / u.shape[1] + 1) ** 3
        return values

    within = 0.0
    for each in (x, y):
        values, num = kernel(each, each), len(each)
        within += float(values.sum() - np.trace(values)) / (num * (num - 1))
    return within - 2 * float(kernel(x, y).mean())


def _rows(images: NDArray[np.uint8], columns: int = 12) -> list[NDArray[np.uint8]]:
    """Whole rows of a grid."""
    return [images[start : start + columns] for start in range(0, len(images) // columns * columns, columns)]


def _obedience(answers: dict[str, list[str]], written: list[dict[str, str]]) -> dict[str, float]:
    right: dict[str, list[bool]] = {}
    everything = []
    for index, named in enumerate(written):
        hits = {factor: answers[factor][index] == value for factor, value in named.items()}
        for factor, hit in hits.items():
            right.setdefault(factor, []).append(hit)
        everything.append(all(hits.values()))
    shares = {factor: float(np.mean(hits)) for factor, hits in right.items()}
    return shares | {"everything": float(np.mean(everything))}


@torch.no_grad()
def _vae_psnr(vae: Any, drawn: NDArray[np.uint8]) -> float:
    """The mean PSNR of the decoded posterior means, in dB."""
    values: list[float] = []
    for batch in torch.split(torch.from_numpy(drawn), 20):
        x = to_float(batch).to(vae.device)
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        error = (((x - y) / 2) ** 2).mean(dim=(1, 2, 3))
        values.extend(psnr_from_mse(value, 1.0) for value in error.tolist())
    return float(np.mean(values))


@torch.no_grad()
def _milliseconds(pipeline: Any, num: int = 40) -> float:
    """Milliseconds per image: the median of a few calls of the U-Net with `num` images at once."""
    unet = pipeline.unet
    side, context = unet.config.sample_size, unet.config.cross_attention_dim
    z_t = torch.zeros((num, unet.config.in_channels, side, side), device=unet.device)
    texts = torch.zeros((num, pipeline.tokenizer.model_max_length, context), device=unet.device)
    times = []
    for _ in range(7):
        started = perf_counter()
        float(unet(z_t, 500, texts).sample.sum())  # waits for a GPU
        times.append((perf_counter() - started) * 1000 / num)
    return sorted(times)[len(times) // 2]


@one_line_errors
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature-score"))
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--steps", type=int, help="steps of the solver (default: the folder's)")
    parser.add_argument("--guidance-scale", type=float, help="guidance of the samples (default: the folder's)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    result = score(
        args.folder, args.out, args.num, args.device, args.folder / "reader", args.steps, args.guidance_scale
    )
    missed = [name for name, bar in BARS.items() if result[name] < bar]
    for name, bar in BARS.items():
        print(f"{name:10} {result[name]:7.3f}   bar {bar:g}{'   MISSED' if name in missed else ''}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
