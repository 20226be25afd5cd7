"""Images as arrays and as tensors."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from synth.images import gif_bytes, open_image, png_bytes

__all__ = ["gif_bytes", "open_image", "png_bytes", "save_grid", "to_float", "to_uint8"]


def to_float(images: Tensor) -> Tensor:
    """uint8 NHWC -> float32 NCHW in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """float NCHW in [-1, 1] -> uint8 NHWC."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round()
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def save_grid(rows: list[NDArray[np.uint8]], path: Path) -> None:
    """Each row is uint8 (N, H, W, 3)."""
    Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows])).save(path)
