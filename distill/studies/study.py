"""What every study has, and the few things that they draw with."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from distill.counterfactuals import Reader, measure
from distill.examples import Example
from distill.settings import EditSettings
from distill.zero_shot import Progress, edit
from synth.images import decode_rgb
from synth.teacher.teacher import Teacher

Row = dict[str, Any]
"""Numbers, text, lists of numbers; an image as PNG bytes under a name that ends in `png`."""
Unit = dict[str, Any]
"""JSON values."""

_CELL, _GAP, _LINE, _SIDE = 128, 6, 18, 170  # pixels


class Study(ABC):
    """One question about the method, answered by measurements."""

    name: str
    """As it is called on the command line."""
    question: str

    @abstractmethod
    def units(self) -> list[Unit]:
        """The pieces of the work, in order; each takes minutes with the miniature.

        A piece that is done is known again by its unit, which so holds every setting that may change.
        """

    @abstractmethod
    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        """Do one piece. The same teacher and unit give the same rows."""

    @abstractmethod
    def figure(self, rows: Sequence[Row]) -> Image.Image:
        """Drawn from the rows alone."""

    @abstractmethod
    def finding(self, rows: Sequence[Row]) -> str:
        """What the rows show, whichever way it falls."""


def trajectory(
    teacher: Teacher, examples: Sequence[Example], settings: EditSettings, at: Iterable[int]
) -> dict[int, list[NDArray[np.uint8]]]:
    """Iteration -> the edited images as they were then, read off one optimisation."""
    wanted = set(at)
    images = [example.picture for example in examples]
    seen: dict[int, list[NDArray[np.uint8]]] = {}

    def watch(progress: Progress) -> None:
        if progress.iteration in wanted:
            seen[progress.iteration] = [np.asarray(picture) for picture in progress.pictures()]

    prompts, sources = [e.prompt for e in examples], [e.source_prompt for e in examples]
    edit(teacher, images, prompts, sources, settings, watch)
    return seen


def scored(image: NDArray[np.uint8], example: Example, reader: Reader) -> dict[str, float]:
    """The figures of one edited image against its truth (`distill.counterfactuals.measure`)."""
    assert example.truth is not None and example.mask is not None, "photographs have no true answer"
    return next(
        measure(image[None], example.image[None], example.truth[None], [example.mask], example.factors, reader)
    )


def from_png(content: bytes) -> Image.Image:
    """The bytes of a PNG -> RGB."""
    return decode_rgb(content)


def heat(
    values: Sequence[float], shape: Sequence[int], low: tuple[int, int, int], highest: float
) -> NDArray[np.uint8]:
    """A map of norms as an image, uint8 (h, w, 3): from the colour `low` at 0 to red at `highest`."""
    share = np.clip(np.asarray(values, np.float64).reshape(shape) / max(highest, 1e-12), 0, 1)[..., None]
    mixed = np.array(low) * (1 - share) + np.array((220, 30, 30)) * share
    colors: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return colors


def sheet(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[Image.Image | None, str]]]]
) -> Image.Image:
    """A table of images: titles above, each row's name at its left, a line of text under each image."""
    height = _CELL + _LINE + _GAP
    page = Image.new("RGB", (_SIDE + len(columns) * (_CELL + _GAP), _LINE + 4 + len(rows) * height), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=12)
    for place, title in enumerate(columns):
        pen.text((_SIDE + place * (_CELL + _GAP), 2), title, "black", font)
    for number, (name, cells) in enumerate(rows):
        top = _LINE + 4 + number * height
        pen.multiline_text((4, top + 4), _wrapped(pen, font, name), "black", font)
        for place, (picture, text) in enumerate(cells):
            left = _SIDE + place * (_CELL + _GAP)
            if picture is not None:
                resample = Image.Resampling.NEAREST if picture.width < _CELL else Image.Resampling.LANCZOS
                page.paste(picture.resize((_CELL, _CELL), resample), (left, top))
            pen.text((left, top + _CELL + 1), text, "black", font)
    return page


def chart(draw: Any, width: float = 6.4, height: float = 4.0) -> Image.Image:
    """A matplotlib chart as an image. `draw` gets the axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    draw(figure.add_subplot())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return Image.fromarray(pixels[..., :3].copy())


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """One above the other."""
    page = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height
    return page


def _wrapped(pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, text: str) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font) > _SIDE - 8:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
