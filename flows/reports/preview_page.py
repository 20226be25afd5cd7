"""The preview page: the images, what to look for, what was measured, and what the full run takes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flows.config.schema import Recipe
from flows.reports.html import CaptionedImage, captioned, jpeg, render_page
from flows.reports.preview_cells import Cell

if TYPE_CHECKING:
    from PIL import Image

    from distill.evaluation.diagnostics import ChangeMetrics
    from distill.evaluation.examples import Example

_MAX_SIDE = 256  # px of an image on the page


def preview_page(
    recipe: Recipe,
    examples: "Sequence[Example]",
    cells: Sequence[Cell],
    learning_rate: float,
    verdict: str,
    costs: list[str],
) -> bytes:
    """One self-contained page.

    Args:
        recipe: whose edits were tried.
        examples: the inputs, with their texts.
        cells: every edit at every setting.
        learning_rate: of the edits.
        verdict: go or no-go, in one line.
        costs: what the full run takes, in lines.
    """
    names = dict.fromkeys(cell.edit for cell in cells)
    return render_page(
        "preview.html",
        title=f"{recipe.name}: preview",
        name=recipe.name,
        teacher=recipe.teacher.id,
        verdict=verdict,
        costs=costs,
        learning_rate=f"{learning_rate:g}",
        edits=[_edit(name, examples, cells) for name in names],
    )


def _edit(name: str, examples: "Sequence[Example]", cells: Sequence[Cell]) -> dict[str, Any]:
    """An edit's table: its inputs, then a row for each setting."""
    inputs = [
        _shown(example.pil_image, f'"{example.source_prompt}" -> "{example.prompt}"')
        for example in examples
        if example.edit == name
    ]
    rows = [
        {
            "setting": f"guidance {cell.guidance_scale:g}, {cell.iterations} iterations",
            "metrics": _metrics(cell.metrics),
            "diagnostics": cell.diagnostics,
            "images": [_shown(image, "") for image in cell.images],
        }
        for cell in cells
        if cell.edit == name
    ]
    return {"name": name, "inputs": inputs, "rows": rows}


def _metrics(metrics: "ChangeMetrics") -> str:
    variety = "" if metrics.variety is None else f", variety {metrics.variety:.0%}"
    return (
        f"{metrics.changed_share:.0%} changes visibly, background by {metrics.background_change:.1f} of 255, "
        f"{metrics.clipped_share:.1%} more clipped{variety}"
    )


def _shown(image: "Image.Image", caption: str) -> CaptionedImage:
    small = image.copy()
    small.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return captioned(jpeg(small, quality=85), caption)
