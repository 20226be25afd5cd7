"""Write images with what they brought: EXIF, color profile, XMP and DPI, in the format that they came in."""

import io
import math
import os
from dataclasses import replace
from typing import Any, BinaryIO

from PIL import ExifTags, Image, PngImagePlugin

from synth.images.reader import FORMATS, SUFFIXES, WHITE, ImageError, SourceImage, first_line, laid_on, sniff_format

QUALITY = 95
"""Of JPEG, with its colors at full resolution, and of WebP, AVIF and HEIF that came in lossy."""
WRITTEN = tuple(name for name in FORMATS if name != "GIF")
"""The formats that hold a photograph's colors."""
_LONGEST = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 65_536}  # px


def written_format(format: str | None) -> str:
    """Return the format in which an image that came in `format` goes out by default: its own, or PNG.

    PNG is for GIF, which has too few colors, and for what is unknown.
    """
    return format if format is not None and format in WRITTEN else "PNG"


def check_format(name: str) -> str:
    """Return the name in WRITTEN of a format that a person asks for.

    Raises:
        ImageError: if it cannot be written here.
    """
    format = name.upper()
    if format not in WRITTEN:
        hint = ", and HEIF needs one more package: pip install pillow-heif" if format == "HEIF" else ""
        raise ImageError(f"the format {name} cannot be written: use one of {', '.join(WRITTEN).lower()}{hint}")
    return format


def suffix_for(source: str | os.PathLike[str], format: str | None = None) -> str:
    """Return the ending of the file that an image becomes: its own where that fits, else the usual one.

    Args:
        source: the image's path; what is in the file counts, not its name.
        format: one of WRITTEN (default: the image's own).
    """
    written = format or written_format(sniff_format(source))
    own = os.path.splitext(source)[1]
    return own.lower() if own.lower() in SUFFIXES[written] else SUFFIXES[written][0]


def encode_image(image: SourceImage, format: str | None = None, **options: Any) -> bytes:
    """Return the file that `write_image` writes."""
    buffer = io.BytesIO()
    write_image(image, buffer, format, **options)
    return buffer.getvalue()


def write_image(
    image: SourceImage, target: str | os.PathLike[str] | BinaryIO, format: str | None = None, **options: Any
) -> None:
    """Write an image with all that it brought.

    Args:
        image: laid on white where it is transparent and the format has no alpha.
        target: a path, of any ending, or a binary file.
        format: one of WRITTEN (default: `written_format`).
        options: of Pillow's writer, over those of `QUALITY`.

    Raises:
        ImageError: if the format cannot hold it.
        OSError: if the target cannot be written.
    """
    format = format or written_format(image.format)
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
        picture.save(target, format, **_options(image, format) | options)
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
        # libtiff compresses, and cannot write the tables below EXIF: exposure, place.
        kept |= {"exif": exif, "compression": "raw" if image.exif else "tiff_adobe_deflate"}
    elif format == "PNG":
        texts = PngImagePlugin.PngInfo()
        if image.xmp:
            texts.add_itxt("XML:com.adobe.xmp", image.xmp.decode(errors="replace"))
        kept |= {"exif": image.exif, "pnginfo": texts}
    elif format != "BMP":
        longest = 65_000 if format == "JPEG" else math.inf  # its marker holds no more
        kept |= {key: value for key in ("exif", "xmp") if len(value := getattr(image, key) or b"") < longest}
    if format == "WEBP":
        kept |= {"lossless": True, "exact": True} if image.is_lossless else {"quality": QUALITY}
    elif format in ("JPEG", "AVIF"):
        kept |= {"quality": QUALITY, "subsampling": "4:4:4"}
    elif format == "HEIF":
        kept |= {"quality": QUALITY}
    return {key: value for key, value in kept.items() if value}
