"""Self-contained HTML pages: Jinja2 templates that escape every value, and images as data URLs inside them."""

import base64
import io
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

TEMPLATES = Environment(
    loader=PackageLoader("flows.reports"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""The pages' templates; `pieces.html` has what several of them show."""


@dataclass(frozen=True)
class CaptionedImage:
    """An image with a line of text below it; the URL holds the image itself."""

    url: str
    caption: str


@dataclass(frozen=True)
class Wipe:
    """Two images of one size, one over the other: left of the handle before, right of it after."""

    before: str
    after: str
    caption: str


def render_page(template: str, **values: object) -> bytes:
    """One page that needs no file beside it."""
    return TEMPLATES.get_template(template).render(values).encode()


def captioned(encoded: bytes, caption: str) -> CaptionedImage:
    """A PNG or JPEG file for `pieces.figure`."""
    return CaptionedImage(_data_url(encoded), caption)


def wipe(before: Image.Image, after: Image.Image, caption: str) -> Wipe:
    """Two images for `pieces.wipe`."""
    return Wipe(_data_url(jpeg(before)), _data_url(jpeg(after)), caption)


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """An image as a JPEG file."""
    encoded = io.BytesIO()
    image.convert("RGB").save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def _data_url(encoded: bytes) -> str:
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
