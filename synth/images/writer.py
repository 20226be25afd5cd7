"""Write images with what they brought: EXIF, color profile, XMP and DPI, in the format that they came in."""

import io
import math
import os
from dataclasses import replace
from typing import Any, BinaryIO

from PIL import ExifTags, Image, PngImagePlugin

from synth.images.reader import FORMATS, SUFFIXES, WHITE, ImageError, SourceImage, first_line, laid_on

QUALITY = 95
"""Of JPEG, with its colors at full resolution, and of WebP, AVIF and HEIF that came in lossy."""
WRITTEN = tuple(name for name in FORMATS if name != "GIF")
"""The formats that hold a photograph's colors."""
_LONGEST = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_536}  # px


def written_format(format: str | None, has_alpha: bool = False) -> str:
    """Return the format in which an image that came in `format` is written by default.

    It is the image's own, but PNG for GIF, which has too few colors, for BMP with alpha, and for what is unknown.
    """
    if format is None or format not in WRITTEN or (format == "BMP" and has_alpha):
        return "PNG"
    return format


def suffix_of(format: str) -> str:
    """Return the usual ending of a format's files: ".jpg"."""
    return SUFFIXES[format][0]


def encode_image(image: SourceImage, format: str | None = None) -> bytes:
    """Return the file that `write_image` writes."""
    buffer = io.BytesIO()
    write_image(image, buffer, format)
    return buffer.getvalue()


def write_image(image: SourceImage, target: str | os.PathLike[str] | BinaryIO, format: str | None = None) -> None:
    """Write an image with all that it brought.

    Args:
        image: laid on white where it is transparent and the format has no alpha.
        target: a path, of any ending, or a binary file.
        format: one of WRITTEN (default: `written_format`).

    Raises:
        ImageError: if the format cannot hold it.
        OSError: if the target cannot be written.
    """
    format = format or written_format(image.format, image.alpha is not None)
    if format not in WRITTEN:
        raise ImageError(f"the image cannot be written as {format}: use one of {', '.join(WRITTEN)}")
    if format == "HEIF":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    longest = _LONGEST.get(format, math.inf)
    if max(image.size) > longest:
        width, height = image.size
        raise ImageError(f"the image of {width}x{height} is longer than the {longest} pixels of {format}: use PNG")
    if image.alpha is not None and format in ("JPEG", "BMP"):
        image = replace(image, pixels=laid_on(image.pixels, image.alpha, WHITE), alpha=None)
    picture = image.to_pil()
    picture.info.clear()  # what goes out is said below, for each format in the way that it takes it
    try:
        picture.save(target, format, **_options(image, format))
    except OSError:
        raise  # the disk's, mostly
    except Exception as error:  # encoders share no base class
        raise ImageError(f"the image cannot be written as {format}: {first_line(error)}") from error


def _options(image: SourceImage, format: str) -> dict[str, Any]:
    """Return what Pillow's writer of a format is told, beside the pixels."""
    kept: dict[str, Any] = {"icc_profile": image.icc_profile, "dpi": image.dpi}
    if format == "TIFF":
        exif = Image.Exif()
        exif.load(image.exif or b"")
        if image.xmp:
            exif[ExifTags.Base.XMLPacket] = image.xmp
        kept |= {"exif": exif, "compression": "tiff_adobe_deflate"}
    elif format == "PNG":
        texts = PngImagePlugin.PngInfo()
        if image.xmp:
            texts.add_itxt("XML:com.adobe.xmp", image.xmp.decode(errors="replace"))
        kept |= {"exif": image.exif, "pnginfo": texts}
    elif format != "BMP":
        # A JPEG's marker holds no more; what is longer is a thumbnail, mostly.
        kept |= {key: value for key in ("exif", "xmp") if len(value := getattr(image, key) or b"") < 65_000}
        kept |= {"quality": QUALITY}
    if format in ("JPEG", "AVIF"):
        kept |= {"subsampling": "4:4:4"}
    elif format == "WEBP":
        kept |= {"lossless": image.is_lossless, "exact": True}
    return {key: value for key, value in kept.items() if value}
