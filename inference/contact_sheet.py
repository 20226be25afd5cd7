"""A sheet to look at: input and edits side by side, one row an image."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from inference.results import Results, Wanted
from synth.errors import printable
from synth.images.encoding import png_bytes
from synth.images.reader import SourceImage

NAME = "contact_sheet"
CELL = 192  # side of an image on the sheet, in pixels
MARGIN = 8
LINE = 20  # height of a line of text
MAX_ROWS = 50  # of the sheet: it is there to be looked at


class ContactSheet:
    """Input and edits side by side, one row an image, each under its name; further rows are left out."""

    def __init__(self, edits: Sequence[str]):
        self._edits = [printable(edit) for edit in edits]
        self._rows: list[tuple[str, list[Image.Image]]] = []
        self._num_left_out = 0

    @property
    def has_room(self) -> bool:
        """Whether a further row is drawn."""
        return len(self._rows) < MAX_ROWS

    def add(self, name: object, images: Sequence[Image.Image]) -> None:
        """Add a row: an input and its edits, as `thumbnail` makes them."""
        if self.has_room:
            self._rows.append((printable(name), list(images)))
        else:
            self.count_out()

    def count_out(self) -> None:
        """Count a row that is not drawn."""
        self._num_left_out += 1

    def write(self, results: Results) -> list[Path]:
        """Write it among the results, if it has rows; returns its path, or nothing.

        Raises:
            FileError: if it cannot be written.
        """
        if not self._rows:
            return []
        wanted = Wanted(None, "contact sheet")
        path = results.choose(wanted, Path(NAME), "", ".png")
        with results.put(wanted, path) as part:
            part.write_bytes(png_bytes(self._draw()))
        return [path]

    def _draw(self) -> Image.Image:
        step, row_height = CELL + MARGIN, LINE + CELL + MARGIN
        width = MARGIN + step * (1 + len(self._edits))
        height = LINE + MARGIN + row_height * len(self._rows) + (LINE if self._num_left_out else 0)
        sheet = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(sheet)
        font = ImageFont.load_default(size=14)

        def write(x: int, y: int, text: str, room: int) -> None:
            while text and draw.textlength(text, font) > room:
                text = text[:-2] + "…" if len(text) > 1 else ""
            draw.text((x, y), text, "black", font)

        for column, label in enumerate(["input", *self._edits]):
            write(MARGIN + column * step, MARGIN // 2, label, CELL)
        for number, (name, images) in enumerate(self._rows):
            top = LINE + MARGIN + number * row_height
            write(MARGIN, top, name, width - 2 * MARGIN)
            for column, image in enumerate(images):
                sheet.paste(image, (MARGIN + column * step, top + LINE))
        if self._num_left_out:
            write(MARGIN, height - LINE, f"and {self._num_left_out} more", width - 2 * MARGIN)
        return sheet


def thumbnail(image: SourceImage) -> Image.Image:
    """Return an image of at most CELL x CELL, in sRGB, on white where it is transparent."""
    return ImageOps.contain(Image.fromarray(image.on_ground()), (CELL, CELL))
