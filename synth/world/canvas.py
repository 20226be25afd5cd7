"""A small vector canvas over Pillow: one line style, flat colours, soft shadows, and silhouettes of named parts.

Coordinates run from 0 to 1, x to the right and y down, whatever the size of the image. Everything is drawn
`SUPERSAMPLE` times larger and reduced by a box filter, so a pixel of the image depends on its own block alone:
that is what makes "nothing changes outside the silhouette" exact.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SUPERSAMPLE = 4
LINE = 0.007  # the one width of outlines, in canvas units: about a pixel at 128

Color = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def shade(color: Color, factor: float) -> Color:
    """Darker below 1, lighter (towards white) above 1."""
    if factor <= 1:
        return tuple(round(channel * factor) for channel in color)  # type: ignore[return-value]
    return mix(color, (255, 255, 255), factor - 1)


def mix(a: Color, b: Color, amount: float) -> Color:
    """`a` at 0, `b` at 1."""
    return tuple(round(x + (y - x) * amount) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


class Canvas:
    """A square RGB image that also remembers where each named part was drawn."""

    def __init__(self, size: int, line_scale: float = 1.0) -> None:
        self.size = size
        self.scale = size * SUPERSAMPLE
        self.line_scale = line_scale
        self.image = Image.new("RGB", (self.scale, self.scale), (255, 255, 255))
        self._pen = ImageDraw.Draw(self.image)
        self._masks: dict[str, tuple[Image.Image, ImageDraw.ImageDraw]] = {}
        self._open: list[str] = []
        self._covering = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """All that is drawn inside belongs to the silhouette of `name`."""
        if name not in self._masks:
            mask = Image.new("L", self.image.size, 0)
            self._masks[name] = (mask, ImageDraw.Draw(mask))
        self._open.append(name)
        try:
            yield
        finally:
            self._open.pop()

    @contextmanager
    def covering(self) -> Iterator[None]:
        """All that is drawn inside stands in front, and is cut out of the silhouettes drawn so far. For plain shapes:
        bands, gradients and glazes cut nothing."""
        self._covering = True
        try:
            yield
        finally:
            self._covering = False

    def look_from(self, corners: Sequence[Point]) -> None:
        """Show another view: the four corners of the image, from the upper left clockwise, are at these points."""
        where = [(x * self.scale, y * self.scale) for x, y in corners]
        ends = [(0, 0), (self.scale, 0), (self.scale, self.scale), (0, self.scale)]
        rows, values = [], []
        for (u, v), (x, y) in zip(ends, where, strict=True):
            rows += [[u, v, 1, 0, 0, 0, -u * x, -v * x], [0, 0, 0, u, v, 1, -u * y, -v * y]]
            values += [x, y]
        view = np.linalg.solve(np.array(rows, np.float64), np.array(values, np.float64)).tolist()
        size, kind, nearest = self.image.size, Image.Transform.PERSPECTIVE, Image.Resampling.NEAREST
        self.image = self.image.transform(size, kind, view, nearest)
        for name, (mask, _) in self._masks.items():
            moved = mask.transform(size, kind, view, nearest)
            self._masks[name] = (moved, ImageDraw.Draw(moved))
        self._pen = ImageDraw.Draw(self.image)

    def finish(self) -> NDArray[np.uint8]:
        """The image, uint8 (size, size, 3)."""
        return np.asarray(self.image.reduce(SUPERSAMPLE))

    def coverage(self, name: str) -> NDArray[np.uint8]:
        """How much of each pixel the part covers: uint8 (size, size), 0 nowhere, 255 wholly."""
        if name not in self._masks:
            return np.zeros((self.size, self.size), np.uint8)
        return np.asarray(self._masks[name][0].reduce(SUPERSAMPLE))

    # Shapes. Each is drawn on the image in its colour, and in white on the masks of the open parts.

    def rounded(self, box: Box, radius: float, fill: Color, outline: Color | None = None) -> None:
        """A rectangle with round corners."""
        for pen, paint, edge in self._pens(fill, outline):
            pen.rounded_rectangle(
                self._box(box), radius * self.scale, fill=paint, outline=edge, width=self._line(LINE)
            )

    def rectangle(self, box: Box, fill: Color, outline: Color | None = None) -> None:
        """A plain rectangle."""
        for pen, paint, edge in self._pens(fill, outline):
            pen.rectangle(self._box(box), fill=paint, outline=edge, width=self._line(LINE))

    def ellipse(self, box: Box, fill: Color, outline: Color | None = None) -> None:
        """An ellipse that touches the four sides of `box`."""
        for pen, paint, edge in self._pens(fill, outline):
            pen.ellipse(self._box(box), fill=paint, outline=edge, width=self._line(LINE))

    def disc(self, x: float, y: float, radius: float, fill: Color, outline: Color | None = None) -> None:
        """A circle."""
        self.ellipse((x - radius, y - radius, x + radius, y + radius), fill, outline)

    def polygon(self, points: Sequence[Point], fill: Color, outline: Color | None = None) -> None:
        """A filled polygon."""
        where = [self._point(point) for point in points]
        for pen, paint, edge in self._pens(fill, outline):
            pen.polygon(where, fill=paint)
            if edge is not None:
                pen.line([*where, where[0], where[1]], fill=edge, width=self._line(LINE), joint="curve")

    def line(self, points: Sequence[Point], color: Color, width: float = LINE) -> None:
        """An open line."""
        where = [self._point(point) for point in points]
        for pen, paint, _ in self._pens(color, None):
            pen.line(where, fill=paint, width=self._line(width), joint="curve")

    def arc(self, box: Box, start: float, end: float, color: Color, width: float = LINE) -> None:
        """A part of an ellipse's edge, from `start` to `end` degrees, clockwise from three o'clock."""
        for pen, paint, _ in self._pens(color, None):
            pen.arc(self._box(box), start, end, fill=paint, width=self._line(width))

    def leaf(self, x: float, y: float, angle: float, length: float, width: float, fill: Color) -> None:
        """A pointed leaf or petal from (x, y) outwards; `angle` in degrees, 0 to the right, 90 up."""
        across, along = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        outline = [(0.0, 0.0), (0.25, 0.38), (0.55, 0.5), (0.82, 0.3), (1.0, 0.0)]
        outline += [(u, -v) for u, v in reversed(outline[1:-1])]
        self.polygon(
            [
                (x + along * u * length + across * v * width, y - across * u * length + along * v * width)
                for u, v in outline
            ],
            fill,
        )

    def bands(self, box: Box, radius: float, colors: Sequence[Color], edges: Sequence[float]) -> None:
        """Vertical bands inside a rounded rectangle: `colors[i]` up to `edges[i]` (0 to 1 across the box)."""
        left, top, right, bottom = self._box(box)
        size = (max(1, right - left), max(1, bottom - top))
        pattern = Image.new("RGB", size, colors[-1])
        pen, start = ImageDraw.Draw(pattern), 0.0
        for color, edge in zip(colors, edges, strict=True):
            pen.rectangle((start * size[0], 0, edge * size[0], size[1]), fill=color)
            start = edge
        window = Image.new("L", size, 0)
        ImageDraw.Draw(window).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius * self.scale, fill=255)
        self.image.paste(pattern, (left, top), window)
        for name in self._open:
            self._masks[name][0].paste(255, (left, top), window)

    def gradient(self, box: Box, top: Color, bottom: Color) -> None:
        """A rectangle that runs from one colour at the top to another at the bottom."""
        left, upper, right, lower = self._box(box)
        size = (max(1, right - left), max(1, lower - upper))
        ramp = Image.linear_gradient("L").resize((1, size[1])).resize(size)
        self.image.paste(top, (left, upper, left + size[0], upper + size[1]))
        self.image.paste(bottom, (left, upper, left + size[0], upper + size[1]), ramp)
        for name in self._open:
            self._masks[name][1].rectangle((left, upper, right, lower), fill=255)

    def glaze(self, points: Sequence[Point] | Box, color: Color, opacity: float) -> None:
        """See-through paint: over a polygon, or over the ellipse that fills a box of four numbers."""
        if isinstance(points[0], tuple):
            corners = [self._point(point) for point in points]  # type: ignore[arg-type]
            xs, ys = [x for x, _ in corners], [y for _, y in corners]
            left, top, right, bottom = min(xs), min(ys), max(xs) + 1, max(ys) + 1
        else:
            left, top, right, bottom = self._box(points)  # type: ignore[arg-type]
            corners = []
        size = (max(1, right - left), max(1, bottom - top))
        film = Image.new("L", size, 0)
        pen, strength = ImageDraw.Draw(film), round(255 * opacity)
        if corners:
            pen.polygon([(x - left, y - top) for x, y in corners], fill=strength)
        else:
            pen.ellipse((0, 0, size[0] - 1, size[1] - 1), fill=strength)
        self.image.paste(color, (left, top, left + size[0], top + size[1]), film)
        for name in self._open:
            self._masks[name][0].paste(255, (left, top, left + size[0], top + size[1]), film.point(_solid))

    def _pens(
        self, fill: Color, outline: Color | None
    ) -> Iterator[tuple[ImageDraw.ImageDraw, Color | int, Color | int | None]]:
        yield self._pen, fill, outline
        if self._covering:
            for _, pen in self._masks.values():
                yield pen, 0, None if outline is None else 0
        for name in self._open:
            yield self._masks[name][1], 255, None if outline is None else 255

    def _point(self, point: Point) -> tuple[int, int]:
        return round(point[0] * self.scale), round(point[1] * self.scale)

    def _box(self, box: Box) -> tuple[int, int, int, int]:
        left, top, right, bottom = (round(value * self.scale) for value in box)
        return left, top, max(left, right), max(top, bottom)

    def _line(self, width: float) -> int:
        return max(1, round(width * self.line_scale * self.scale))


def _solid(value: int) -> int:
    return 255 if value else 0
