"""Images as files and as bytes. Every image that comes from outside is opened here, in one of a few formats."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from synth.errors import ImageInputError, first_line
from synth.files import write_bytes

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is opened, whatever a file's name says. Not all of Pillow's formats: some start other programs (Ghostscript)."""


def open_lazily(source: Path | BinaryIO | bytes) -> Image.Image:
    """An image whose header is read and whose pixels are not.

    Raises:
        PIL.UnidentifiedImageError: for what is not an image, or in another format than FORMATS.
    """
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)


def open_image(path: Path) -> Image.Image:
    """A person's file as RGB, upright.

    Raises:
        ImageInputError: if it cannot be read as an image.
    """
    try:
        with open_lazily(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them stumble over
        raise ImageInputError(f"{path} cannot be read as an image: {first_line(error)}") from None


def decode_rgb(content: bytes) -> Image.Image:
    """The bytes of an image file that this project wrote, as RGB.

    Raises:
        PIL.UnidentifiedImageError, OSError: for a damaged one.
    """
    with open_lazily(content) as image:
        return image.convert("RGB")


def tile_images(rows: Iterable[Iterable[NDArray[np.uint8]]]) -> Image.Image:
    """Rows of as many images each, uint8 (H, W, 3), edge to edge. Grids with names are in `distill.grids`."""
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))


def save_grid(rows: Iterable[Iterable[NDArray[np.uint8]]], path: Path) -> None:
    """Write `tile_images` of the rows as a file, whole or not at all."""
    write_bytes(path, png_bytes(tile_images(rows)))


def png_bytes(image: Image.Image) -> bytes:
    """An image as the bytes of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def gif_bytes(frames: Sequence[Image.Image], milliseconds: Sequence[int]) -> bytes:
    """Images of one size as the bytes of an endless animation; each stands for its time."""
    buffer, (first, *others) = io.BytesIO(), frames
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=list(milliseconds), loop=0)
    return buffer.getvalue()
