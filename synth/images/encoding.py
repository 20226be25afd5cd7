"""Images as files and as bytes: people's, through the one reader, and those that the project makes."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synth.errors import ImageInputError
from synth.files import write_bytes
from synth.images.reader import ImageError, SourceImage, open_lazily, read_image


def read_photo(path: Path) -> SourceImage:
    """Read a user's image file, with what goes out with it again.

    Raises:
        ImageInputError: if it cannot be read as an image.
    """
    try:
        return read_image(path)
    except ImageError as error:
        raise ImageInputError(str(error)) from None


def open_image(path: Path) -> Image.Image:
    """Read a user's image file as RGB in sRGB, upright, on white where it is transparent.

    Raises:
        ImageInputError: if it cannot be read as an image.
    """
    return Image.fromarray(read_photo(path).on_ground())


def decode_rgb(content: bytes) -> Image.Image:
    """Decode an image file that this project wrote, as RGB.

    Raises:
        ImageError, OSError: if it is damaged.
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
