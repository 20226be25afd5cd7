"""The page of a preview: the images, what to look for, what was measured, and what the full run takes."""

import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.config.schema import Recipe
from flows.reports.html import page, picture
from flows.reports.preview_cells import Cell

if TYPE_CHECKING:
    from PIL import Image

    from distill.diagnostics import ChangeMetrics
    from distill.examples import Example

_SHOWN = 256  # px, at most, of an image on the page
_WHAT_TO_LOOK_FOR = """
<p>Look at each edit from its weakest setting to its strongest.</p><ul>
<li>Has what the text names become what it says? No figure here knows that: it is for you to see.</li>
<li>Is the rest of the image still there, its lines in their places?</li>
<li>Do different images stay different?</li>
<li>If no setting is right, change the words first. The source text must be true of the image, and the target must
differ from it in the edit alone.</li></ul>
"""


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
    body = [f"<h1>{html.escape(recipe.name)}: a look before the training</h1>"]
    body.append(f"<p><b>{html.escape(verdict)}</b></p><h2>What to look for</h2>{_WHAT_TO_LOOK_FOR}")
    body.append("<h2>What the full run takes</h2><ul>")
    body += [f"<li>{html.escape(line)}</li>" for line in costs]
    body.append("</ul>")
    for edit in dict.fromkeys(cell.edit for cell in cells):
        own = [example for example in examples if example.edit == edit]
        body.append(f"<h2>{html.escape(edit)}</h2><div class='scroll'><table><tr><th>input</th>")
        body += [_cell(example.pil_image, f'"{example.source_prompt}" -> "{example.prompt}"') for example in own]
        body.append("</tr>")
        for cell in (cell for cell in cells if cell.edit == edit):
            name = f"guidance {cell.guidance_scale:g}, {cell.iterations} iterations"
            advice = "".join(
                f"<br><b>{sign.name}</b>: {html.escape(sign.measured)}; {html.escape(sign.advice)}"
                for sign in cell.diagnostics
            )
            body.append(f"<tr><th>{name}<br>{_figures(cell.metrics)}{advice}</th>")
            body += [*(_cell(image, "") for image in cell.images), "</tr>"]
        body.append("</table></div>")
    body.append(
        f"<p>Zero-shot Delta Denoising Score, learning rate {learning_rate:g}; teacher "
        f"{html.escape(recipe.teacher.id)}. The thresholds and their reasons are in distill/diagnostics.py.</p>"
    )
    return page(f"{recipe.name}: preview", [*body, _STYLE])


_STYLE = """<style>table { table-layout: fixed } th, td { white-space: normal; vertical-align: top; text-align: left }
th { font-weight: 400; width: 16rem } td { width: 11rem } td img { width: 10rem }</style>"""


def _figures(figures: "ChangeMetrics") -> str:
    variety = "" if figures.variety is None else f", variety {figures.variety:.0%}"
    return (
        f"{figures.changed_share:.0%} changes visibly, background by {figures.background_change:.1f} of 255, "
        f"{figures.clipped_share:.1%} more clipped{variety}"
    )


def _cell(image: "Image.Image", caption: str) -> str:
    small = image.copy()
    small.thumbnail((_SHOWN, _SHOWN))
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=85)
    return f"<td>{picture(encoded.getvalue(), caption)}</td>"
