"""Images as files and as bytes. Every image from outside is opened here, in one of a few formats."""

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
"""The formats that are opened, whatever a file's name. Pillow knows more, but some start programs (Ghostscript)."""


def open_lazily(source: Path | BinaryIO | bytes) -> Image.Image:
    """Open an image and read its header, not its pixels.

    Raises:
        PIL.UnidentifiedImageError: if it is not an image in one of FORMATS.
    """
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)


def open_image(path: Path) -> Image.Image:
    """Read a user's image file as RGB, upright.

    Raises:
        ImageInputError: if it cannot be read as an image.
    """
    try:
        with open_lazily(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # Pillow's readers share no base class of errors
        raise ImageInputError(f"{path} cannot be read as an image: {first_line(error)}") from None


def decode_rgb(content: bytes) -> Image.Image:
    """Decode an image file that this project wrote, as RGB.

    Raises:
        PIL.UnidentifiedImageError, OSError: if it is damaged.
    """
    with open_lazily(content) as image:
        return image.convert("RGB")


def tile_images(rows: Iterable[Iterable[NDArray[np.uint8]]]) -> Image.Image:
    """Join rows of equally many images, uint8 (H, W, 3), edge to edge.

    For labelled grids see `distill.evaluation.grids`.
    """
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))


def save_grid(rows: Iterable[Iterable[NDArray[np.uint8]]], path: Path) -> None:
    """Write `tile_images` of the rows to a file, whole or not at all."""
    write_bytes(path, png_bytes(tile_images(rows)))


def png_bytes(image: Image.Image, compress_level: int = -1) -> bytes:
    """Encode an image as PNG. The compression level is zlib's, 0 to 9 (default: -1, zlib's own)."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def gif_bytes(frames: Sequence[Image.Image], milliseconds: Sequence[int]) -> bytes:
    """Encode images of one size as an endless animation; `milliseconds` says how long each is shown."""
    first, *others = frames
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=list(milliseconds), loop=0)
    return buffer.getvalue()
