"""Turns photographs into the square images of a dataset.

A folder may hold anything: images rotated by EXIF, CMYK, 16 bits, alpha, animations, truncated files, files that are
not images. Each becomes an RGB square, or is rejected with a reason.
"""

import warnings

from PIL import Image, ImageOps

from synth.images.reader import (
    ForeignFormatError,
    ImageError,
    NotAnImageError,
    TooLargeError,
    open_lazily,
    read_image,
)
from synth.settings import PhotoSettings


class Rejected(Exception):
    """An image that cannot be used; the message is the reason."""


def prepared(content: bytes, settings: PhotoSettings) -> Image.Image:
    """Turn an image file into an RGB image of `settings.image_size` squared.

    Raises:
        Rejected: if the file is not an image, is truncated, or has dimensions that the settings refuse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd files, but all that counts is whether one opens
        try:
            with open_lazily(content) as image:
                width, height = image.size
                if min(width, height) < settings.min_side:
                    raise Rejected(f"{width} x {height} is smaller than {settings.min_side}")
                if max(width, height) > settings.max_aspect_ratio * min(width, height):
                    raise Rejected(f"{width} x {height} is too long and narrow")
                if image.format in ("JPEG", "MPO"):
                    image.draft(
                        "RGB", (2 * settings.image_size, 2 * settings.image_size)
                    )  # decodes large ones smaller
                photo = read_image(image)
        except ForeignFormatError as error:
            raise Rejected(str(error)) from None
        except NotAnImageError:
            raise Rejected("not an image") from None
        except TooLargeError:
            raise Rejected("too large") from None
        except ImageError as error:
            raise Rejected("truncated" if "truncated" in str(error) else f"broken: {error}") from None
    # In sRGB, as the teacher knows colors, and without EXIF, which tells places.
    image = Image.fromarray(photo.on_ground())
    size = (settings.image_size, settings.image_size)
    if settings.fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.LANCZOS, color="white")
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
