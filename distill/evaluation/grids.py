"""Grids of images with titles, names and captions: the one place where they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

GAP = 6
"""Pixels between neighbouring cells."""
_HEADER = 22  # px, for the titles above
_LEFT = 4  # px before a row's name


@dataclass(frozen=True)
class GridRow:
    """One row of a grid."""

    name: str
    images: Sequence[Image.Image | None]
    """One a column, from the left; None leaves its cell empty."""
    captions: Sequence[str] = ()
    """One an image, or none at all."""
    gap: int = GAP
    """Pixels below the row."""


@dataclass(frozen=True)
class GridStyle:
    """Measures of a grid, in pixels."""

    cell: int = 128
    """Side of a cell; images of another size are resized to it."""
    names_width: int = 170
    """Width of the column of the rows' names."""
    caption_height: int = 18
    """Height of the line below each image; 0 leaves it out."""
    font_size: int = 12
    titles_top: int = 2
    names_top: int = 4
    """From the top of a row to its name."""


def labelled_grid(titles: Sequence[str], rows: Sequence[GridRow], style: GridStyle | None = None) -> Image.Image:
    """Draw images in rows and columns, white between them.

    Args:
        titles: one a column; one too long for its column is cut.
        rows: from the top; a name too long for its column is wrapped.
        style: the measures (default: those of the studies).
    """
    style = style or GridStyle()
    step = style.cell + GAP
    heights = [style.cell + style.caption_height + row.gap for row in rows]
    page = Image.new("RGB", (style.names_width + len(titles) * step, _HEADER + sum(heights)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=style.font_size)
    for column, title in enumerate(titles):
        x = style.names_width + column * step
        pen.text((x, style.titles_top), _cut(pen, font, title, style.cell), "black", font)
    top = _HEADER
    for row, height in zip(rows, heights, strict=True):
        name = _wrapped(pen, font, row.name, style.names_width - 2 * _LEFT)
        pen.multiline_text((_LEFT, top + style.names_top), name, "black", font)
        for column, image in enumerate(row.images):
            if image is not None:
                page.paste(_resized(image, style.cell), (style.names_width + column * step, top))
        for column, caption in enumerate(row.captions):
            pen.text((style.names_width + column * step, top + style.cell + 1), caption, "black", font)
        top += height
    return page


def stacked(images: Sequence[Image.Image]) -> Image.Image:
    """Put images one above the other, aligned at the left."""
    page = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        page.paste(image, (0, top))
        top += image.height
    return page


def _resized(image: Image.Image, cell: int) -> Image.Image:
    """To a square cell: small maps keep their hard edges, photographs are smoothed."""
    resample = Image.Resampling.NEAREST if image.width < cell else Image.Resampling.LANCZOS
    return image.resize((cell, cell), resample)


def _cut(pen: ImageDraw.ImageDraw, font: Font, text: str, width: int) -> str:
    while pen.textlength(text, font) > width:
        text = text[:-2].rstrip() + "…"
    return text


def _wrapped(pen: ImageDraw.ImageDraw, font: Font, text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
