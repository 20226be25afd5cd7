"""The shifted split: the same world as somebody else might have drawn it. Never trained on.

Another perspective, other line widths, another palette, and things that stand in front of what is edited. The factors
keep their meaning: a red sofa stays red to a person. All of it follows from the scene's seed alone, and each step
keeps a pixel of the image a function of its own block of the canvas, so that counterfactuals stay exact.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synth.world.canvas import Canvas, Color, Point, shade

_GREENERY: tuple[Color, ...] = ((58, 112, 78), (96, 150, 84), (70, 128, 120))
_THINGS: tuple[Color, ...] = ((214, 162, 96), (92, 132, 152), (186, 104, 96), (150, 128, 172), (228, 214, 180))


@dataclass(frozen=True)
class Style:
    """How a shifted scene is drawn."""

    line_scale: float
    """Width of all lines, as a multiple of the house style's."""
    corners: tuple[Point, Point, Point, Point]
    """What part of the canvas is seen: its upper left, upper right, lower right and lower left corner."""
    tint: NDArray[np.float32]
    """(3, 4): an image's colours in [0, 1] become `tint @ (r, g, b, 1)`."""

    @classmethod
    def draw(cls, rng: random.Random) -> "Style":
        """One style; pure in `rng`'s state."""
        line_scale = rng.choice((0.45, 1.7, 2.2))
        near, far = sorted((rng.uniform(0.0, 0.03), rng.uniform(0.07, 0.13)))
        low, high = rng.uniform(0.0, 0.05), rng.uniform(0.0, 0.04)
        left, right = (near, far) if rng.random() < 0.5 else (far, near)  # the side that is nearer is cut less
        corners = ((low, left), (1 - high, right), (1 - high, 1 - right), (low, 1 - left))
        saturation, gain = rng.uniform(0.72, 1.2), rng.uniform(0.88, 1.06)
        cast = [rng.uniform(-0.04, 0.04) for _ in range(3)]
        grey = np.full((3, 3), 1 / 3)
        mixing = gain * (saturation * np.eye(3) + (1 - saturation) * grey)
        return cls(line_scale, corners, np.column_stack([mixing, cast]).astype(np.float32))

    def recolor(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image, uint8 (H, W, 3), in this style's palette."""
        colors = image.astype(np.float32) / 255 @ self.tint[:, :3].T + self.tint[:, 3]
        tinted: NDArray[np.uint8] = (colors.clip(0, 1) * 255).round().astype(np.uint8)
        return tinted


def clutter(canvas: Canvas, kind: str, rng: random.Random) -> None:
    """Two things in front of the scene; what they hide leaves the silhouettes."""
    with canvas.covering():
        for thing in rng.sample(_CLUTTER[kind], 2):
            thing(canvas, rng)


def _table(canvas: Canvas, rng: random.Random) -> None:
    x, y, half = rng.uniform(0.38, 0.62), rng.uniform(0.84, 0.88), rng.uniform(0.12, 0.17)
    wood: Color = rng.choice(((150, 104, 66), (92, 68, 58), (222, 206, 184)))
    for side in (-0.8, 0.72):
        canvas.rectangle((x + half * side, y, x + half * side + 0.016, 1.0), shade(wood, 0.7))
    canvas.rounded((x - half, y - 0.014, x + half, y + 0.014), 0.01, wood, shade(wood, 0.6))
    cup: Color = rng.choice(_THINGS)
    canvas.rounded((x - 0.02, y - 0.055, x + 0.025, y - 0.012), 0.008, cup, shade(cup, 0.6))
    _pile(canvas, x + half * rng.choice((-0.6, 0.6)), y - 0.014, rng)


def _books(canvas: Canvas, rng: random.Random) -> None:
    _pile(canvas, rng.choice((rng.uniform(0.1, 0.25), rng.uniform(0.75, 0.9))), rng.uniform(0.95, 0.99), rng, 1.7)


def _pile(canvas: Canvas, x: float, foot: float, rng: random.Random, scale: float = 1.0) -> None:
    for layer in range(rng.choice((2, 3, 4))):
        color, half = rng.choice(_THINGS), scale * rng.uniform(0.03, 0.045)
        bottom = foot - scale * 0.018 * layer
        canvas.rectangle((x - half, bottom - scale * 0.018, x + half, bottom), color, shade(color, 0.6))


def _cat(canvas: Canvas, rng: random.Random) -> None:
    x, foot = rng.uniform(0.25, 0.75), rng.uniform(0.93, 0.98)
    fur: Color = rng.choice(((70, 66, 72), (206, 150, 96), (226, 222, 214)))
    edge = shade(fur, 0.6)
    canvas.ellipse((x - 0.05, foot - 0.12, x + 0.05, foot), fur, edge)
    for side in (-1, 1):
        canvas.polygon(
            [(x + side * 0.036, foot - 0.15), (x + side * 0.034, foot - 0.195), (x + side * 0.008, foot - 0.17)],
            fur,
            edge,
        )
    canvas.disc(x, foot - 0.14, 0.038, fur, edge)
    canvas.arc((x + 0.02, foot - 0.09, x + 0.11, foot - 0.005), 270, 100, fur, 0.016)


def _tall_plant(canvas: Canvas, rng: random.Random) -> None:
    x = rng.choice((rng.uniform(0.08, 0.2), rng.uniform(0.8, 0.92)))
    green = rng.choice(_GREENERY)
    for angle in range(30, 151, 20):
        canvas.leaf(
            x, 0.84, angle + rng.uniform(-6, 6), rng.uniform(0.18, 0.3), 0.05, shade(green, rng.uniform(0.8, 1.1))
        )
    pot: Color = rng.choice(_THINGS)
    canvas.polygon([(x - 0.06, 0.83), (x + 0.06, 0.83), (x + 0.045, 0.98), (x - 0.045, 0.98)], pot, shade(pot, 0.6))


def _branch(canvas: Canvas, rng: random.Random) -> None:
    """A twig that hangs into the image from an upper corner."""
    side, green = rng.choice((0, 1)), rng.choice(_GREENERY)
    for step in range(6):
        along = 0.05 + 0.06 * step
        x = along if side == 0 else 1 - along
        for turn in (-1, 1):
            angle = (-35 if side == 0 else 215) + turn * 42 + rng.uniform(-8, 8)
            canvas.leaf(
                x, 0.03 + along * 0.55, angle, rng.uniform(0.09, 0.13), 0.04, shade(green, rng.uniform(0.8, 1.15))
            )


def _watering_can(canvas: Canvas, rng: random.Random) -> None:
    side, color = rng.choice((-1, 1)), rng.choice(_THINGS)
    x, foot, edge = 0.5 + side * rng.uniform(0.2, 0.27), rng.uniform(0.95, 0.98), shade(color, 0.6)
    canvas.line([(x - side * 0.05, foot - 0.05), (x - side * 0.14, foot - 0.17)], color, 0.02)
    canvas.arc((x - 0.06, foot - 0.2, x + 0.06, foot - 0.08), 180, 360, edge, 0.014)
    canvas.rounded((x - 0.07, foot - 0.13, x + 0.07, foot), 0.02, color, edge)


def _butterfly(canvas: Canvas, rng: random.Random) -> None:
    x, y, color = rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.55), rng.choice(_THINGS)
    for angle in (35, -25, 145, 205):
        canvas.leaf(x, y, angle, 0.06, 0.045, color)
    canvas.line([(x, y - 0.025), (x, y + 0.03)], (60, 54, 58), 0.01)


def _railing(canvas: Canvas, rng: random.Random) -> None:
    """A rail across the lower edge."""
    wood: Color = rng.choice(((150, 104, 66), (232, 228, 220), (96, 104, 112)))
    y = rng.uniform(0.9, 0.94)
    for post in range(5):
        x = 0.06 + 0.22 * post
        canvas.rectangle((x, y, x + 0.03, 1.0), shade(wood, 0.9))
    canvas.rectangle((0, y - 0.02, 1, y + 0.015), wood, shade(wood, 0.6))


def _mug(canvas: Canvas, rng: random.Random) -> None:
    x, color = rng.uniform(0.25, 0.75), rng.choice(_THINGS)
    canvas.arc((x + 0.03, 0.86, x + 0.11, 0.94), 250, 110, shade(color, 0.8), 0.014)
    canvas.rounded((x - 0.06, 0.84, x + 0.06, 0.97), 0.02, color, shade(color, 0.6))


_Thing = Callable[[Canvas, random.Random], None]
_CLUTTER: dict[str, list[_Thing]] = {
    "room": [_table, _cat, _tall_plant, _books],
    "plant": [_watering_can, _butterfly, _branch, _cat],
    "portrait": [_branch, _railing, _mug, _butterfly],
}
