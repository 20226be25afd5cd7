"""Images as arrays and as tensors."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from synth.errors import ImageInputError


def open_image(path: Path) -> Image.Image:
    """Open a user's file as RGB, turned upright.

    Raises:
        ImageInputError: if it cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageInputError(f"{path} cannot be read as an image: {error}") from None


def to_float(images: Tensor) -> Tensor:
    """uint8 NHWC -> float32 NCHW in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """float NCHW in [-1, 1] -> uint8 NHWC."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round()
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def png_bytes(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def gif_bytes(frames: Sequence[Image.Image], milliseconds: Sequence[int]) -> bytes:
    """Encode images of one size as an endless GIF; each is shown for its time."""
    buffer = io.BytesIO()
    first, *others = frames
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=list(milliseconds), loop=0)
    return buffer.getvalue()


def save_grid(rows: list[NDArray[np.uint8]], path: Path) -> None:
    """Save rows of images, each uint8 (N, H, W, 3), as one image."""
    Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows])).save(path)
