"""Self-contained HTML pages: Jinja2 templates that escape every value, and images as data URLs inside them."""

import io
from dataclasses import dataclass

from PIL import Image

from synth.templates import data_url, html_templates

TEMPLATES = html_templates("flows.reports")
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
    return CaptionedImage(data_url(encoded), caption)


def wipe(before: Image.Image, after: Image.Image, caption: str) -> Wipe:
    """Two images for `pieces.wipe`."""
    return Wipe(data_url(jpeg(before)), data_url(jpeg(after)), caption)


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """An image as a JPEG file."""
    encoded = io.BytesIO()
    image.convert("RGB").save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()
