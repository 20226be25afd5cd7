"""How much a model's edits flicker: a still scene under a sensor's noise, frame by frame.

    python benchmarks/flicker.py runs/demo/model.pixel.onnx runs/demo/model.onnx [--edit red-leather] [--size 128]

The mean absolute change from one frame to the next, in levels of 255, inside the edited object and outside, of the
input itself and of each model's edits of it: of pixels, and of the means of patches of 8 x 8 pixels, which the eye
sees flicker where pixels only look grainy. The scenes are drawn rooms of the test split; the mask is their sofa.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import one_line

from inference.runtime import Translator
from synth.world.scenes import render, sample_scene

_PATCH = 8  # px
_READ_NOISE = 1.5  # levels
_SHOT_NOISE = 0.04  # variance a level: three levels in the lights, as a phone has them indoors


def noisy(still: NDArray[np.uint8], num_frames: int, seed: int) -> list[NDArray[np.uint8]]:
    """Return what a sensor sees of a still image (H, W, 3): frames whose noise grows with the light."""
    draws = np.random.default_rng(seed)
    deviation = np.sqrt(_READ_NOISE**2 + _SHOT_NOISE * still)
    seen = (still + deviation * draws.standard_normal(still.shape) for _ in range(num_frames))
    return [np.clip(np.rint(frame), 0, 255).astype(np.uint8) for frame in seen]


def changes(frames: list[NDArray[np.uint8]], mask: NDArray[np.bool_]) -> list[float]:
    """Return the mean absolute changes between neighbours, in levels: pixels inside a mask (H, W) and outside, then
    patches inside and outside.
    """
    found = []
    for side in (1, _PATCH):
        means = [patches(frame, side) for frame in frames]  # each (H / side, W / side, 3)
        moved = np.mean([np.abs(one - other) for one, other in pairwise(means)], axis=(0, 3))
        share = patches(mask[..., None], side)[..., 0]
        found += [float(moved[share == 1].mean()), float(moved[share == 0].mean())]
    return found


def patches(image: NDArray[Any], side: int) -> NDArray[np.float64]:
    """Average (H, W, C) over squares: float64 (H / side, W / side, C)."""
    height, width, channels = image.shape
    return image.reshape(height // side, side, width // side, side, channels).mean((1, 3))


@one_line
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--edit", default="red-leather")
    parser.add_argument("--size", type=int, default=128, help="Side of the frames in pixels.")
    parser.add_argument("--num-frames", type=int, default=24)
    parser.add_argument("--num-scenes", type=int, default=8)
    args = parser.parse_args()
    translators = {str(path): Translator.load(path, num_threads=1) for path in args.models}
    rows: dict[str, list[list[float]]] = {}
    for index in range(args.num_scenes):
        drawing = render(sample_scene("test", index, "room"), args.size)
        frames = noisy(drawing.image, args.num_frames, index)
        mask = drawing.masks["sofa"]
        rows.setdefault("input", []).append(changes(frames, mask))
        for name, translator in translators.items():
            rows.setdefault(name, []).append(changes(translator(frames, args.edit), mask))
    print(f"{args.edit}, {args.num_scenes} scenes of {args.num_frames} frames, {args.size} px: levels a frame")
    for name, figures in rows.items():
        inside, outside, patch_inside, patch_outside = np.mean(figures, axis=0)
        print(f"{name}  inside {inside:.2f}, outside {outside:.2f}", end="; ")
        print(f"patches inside {patch_inside:.2f}, outside {patch_outside:.2f}")


if __name__ == "__main__":
    main()
