"""A video of known frames, as Chromium's fake camera plays it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

SIDE = 128
LEVELS = (70, 100, 130, 160)
"""Frame k is all `colours(k)`: a top and a bottom of their own, so that a frame's number and its way up are seen."""


def colours(number: int) -> np.ndarray:
    """Top and bottom of a frame, uint8 (2, 3); away from the ends of the range so that no edit clips."""
    return np.array([[LEVELS[number], 120, 90], [110, 90, 150]], np.uint8)


def frame(number: int) -> np.ndarray:
    """A frame, uint8 (SIDE, SIDE, 3)."""
    return np.repeat(colours(number), SIDE // 2, axis=0)[:, None].repeat(SIDE, axis=1)


def write_y4m(path: Path, frames: Sequence[np.ndarray], fps: int = 30) -> Path:
    """Write frames of even size, uint8 (H, W, 3), as uncompressed YUV 4:2:0 of BT.601."""
    height, width = frames[0].shape[:2]
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg\n".encode())
        for rgb in frames:
            file.write(b"FRAME\n")
            for plane in _yuv420(rgb):
                file.write(plane.tobytes())
    return path


def _yuv420(rgb: np.ndarray) -> list[np.ndarray]:
    """Y (H, W), and U and V (H / 2, W / 2), in studio range."""
    red, green, blue = (rgb[..., c] / 255 for c in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = [0.5 * (blue - luma) / (1 - 0.114), 0.5 * (red - luma) / (1 - 0.299)]
    halves = [c.reshape(c.shape[0] // 2, 2, c.shape[1] // 2, 2).mean((1, 3)) for c in chroma]
    return [np.uint8(np.round(16 + 219 * luma)), *(np.uint8(np.round(128 + 224 * half)) for half in halves)]
