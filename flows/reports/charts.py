"""A training's curves as small charts: what `pieces.chart` draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MAX_POINTS = 300


@dataclass(frozen=True)
class Chart:
    """One curve over the training's steps. Coordinates are px of the drawing, y downwards."""

    caption: str
    path: str
    first: str
    """Label of the first step."""
    last: str
    low: str
    """Label of the smallest value."""
    high: str
    width: int = 300
    height: int = 110
    left: int = 44  # room for the labels of the values
    right: int = 296
    top: int = 6
    bottom: int = 94  # room below for the labels of the steps


def training_charts(rows: Sequence[Mapping[str, float]], captions: Mapping[str, str]) -> list[Chart]:
    """A chart for each metric of a training.

    Args:
        rows: one per logged step, each with `step` and the metrics.
        captions: metric -> its caption, for the metrics to draw.
    """
    return [_chart([(row["step"], row[name]) for row in rows], caption) for name, caption in captions.items()]


def _chart(points: Sequence[tuple[float, float]], caption: str) -> Chart:
    # A long training would make a large page: thin the points out, and keep the last one.
    shown = [*points[: -1 : max(1, len(points) // _MAX_POINTS)], points[-1]]
    low = min(y for _, y in shown)
    high = max(y for _, y in shown)
    first, last = points[0][0], points[-1][0]

    def place(x: float, y: float) -> str:
        # A single step, or a constant, has no extent to divide by.
        across = Chart.left + (Chart.right - Chart.left) * (x - first) / ((last - first) or 1)
        down = Chart.bottom - (Chart.bottom - Chart.top) * (y - low) / ((high - low) or 1)
        return f"{across:.1f} {down:.1f}"

    path = "M" + "L".join(place(x, y) for x, y in shown)
    return Chart(caption, path, f"{first:g}", f"{last:g}", f"{low:.3g}", f"{high:.3g}")
