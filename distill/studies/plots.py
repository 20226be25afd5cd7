"""What the studies' plots are drawn with, beside `distill.evaluation.grids`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Color = tuple[int, int, int]

_RED: Color = (220, 30, 30)


def chart(draw: Callable[[Any], None], width: float = 6.4, height: float = 4.0) -> Image.Image:
    """Draw a matplotlib chart.

    Args:
        draw: called with the axes.
        width: in inches, 110 pixels each.
        height: in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    draw(figure.add_subplot())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return Image.fromarray(pixels[..., :3].copy())


def heat_map(values: Sequence[float], shape: Sequence[int], low: Color, highest: float) -> NDArray[np.uint8]:
    """Color a map of norms.

    Args:
        values: row by row.
        shape: (h, w) of the map.
        low: the color of 0; `highest` and above are red.
        highest: the value of the other end.

    Returns:
        uint8 (h, w, 3).
    """
    share = np.clip(np.asarray(values, np.float64).reshape(shape) / max(highest, 1e-12), 0, 1)[..., None]
    mixed = np.array(low) * (1 - share) + np.array(_RED) * share
    colors: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return colors
