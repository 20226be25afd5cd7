"""Draws docs/live.gif: a drawn room under a slow camera, and beside it what a pixel network makes of each frame.

    python docs/draw_live.py [MODEL] [--out docs/live.gif]

Every frame goes through the model file by itself, as in `distillery serve`'s page: nothing holds the frames together.
The room is the second of the test split, which nobody chose; its edits take turns.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.runtime import Translator
from synth.files import write_bytes
from synth.images.encoding import gif_bytes
from synth.world.scenes import render, sample_scene

ROOT = Path(__file__).parents[1]
_SCENE = 1  # of the test split
_DRAWN, _WINDOW, _SHOWN = 640, 560, 224  # px: the drawing, what the camera sees of it, and a side of the picture
_FRAMES_AN_EDIT, _MILLISECONDS = 12, 90
_GAP = 8  # px between the two pictures


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=ROOT / "examples" / "models" / "sofas.onnx")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "live.gif")
    args = parser.parse_args()
    translator = Translator.load(args.model)
    room = render(sample_scene("test", _SCENE, "room"), _DRAWN).image
    shown = [edit for edit in translator.edits for _ in range(_FRAMES_AN_EDIT)]
    frames = []
    for place, edit in enumerate(shown):
        seen = camera(room, place / len(shown))
        frames.append(side_by_side(seen, translator(seen, edit)))
    write_bytes(args.out, gif_bytes(in_few_colours(frames), [_MILLISECONDS] * len(frames)))


def camera(room: NDArray[np.uint8], phase: float) -> NDArray[np.uint8]:
    """See the room through a window that goes round an ellipse once, while `phase` goes from 0 to 1."""
    reach = (_DRAWN - _WINDOW) / 2
    left = reach * (1 + math.cos(2 * math.pi * phase))
    top = reach * (1 + 0.5 * math.sin(2 * math.pi * phase))
    box = (left, top, left + _WINDOW, top + _WINDOW)
    return np.asarray(Image.fromarray(room).resize((_SHOWN, _SHOWN), Image.Resampling.BICUBIC, box))


def side_by_side(seen: NDArray[np.uint8], edited: NDArray[np.uint8]) -> Image.Image:
    """Join a frame and its edit, with a white gap."""
    gap: NDArray[np.uint8] = np.full((len(seen), _GAP, 3), 255, np.uint8)
    return Image.fromarray(np.concatenate([seen, gap, edited], axis=1))


def in_few_colours(frames: list[Image.Image]) -> list[Image.Image]:
    """Give all frames one palette without dither: what stays then costs a GIF nothing."""
    together = Image.new("RGB", (frames[0].width, frames[0].height * len(frames)))
    for place, frame in enumerate(frames):
        together.paste(frame, (0, place * frame.height))
    palette = together.quantize(256, Image.Quantize.MEDIANCUT, kmeans=2)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


if __name__ == "__main__":
    main()
