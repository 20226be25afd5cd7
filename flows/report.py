"""A run as tables, for the terminal and for Prefect, and as one self-contained HTML page."""

import base64
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.recipe import Recipe, to_toml
from flows.run_folder import RunFolder, write_whole

_COLUMNS = {
    "factor right": ("right", "{:.0%}"),
    "PSNR": ("psnr_all", "{:.1f}"),
    "inside": ("psnr_inside", "{:.1f}"),
    "outside": ("psnr_outside", "{:.1f}"),
    "outside to input": ("psnr_outside_to_input", "{:.1f}"),
    "SSIM": ("ssim_all", "{:.3f}"),
    "SSIM inside": ("ssim_inside", "{:.3f}"),
    "SSIM outside": ("ssim_outside", "{:.3f}"),
}
_NUM_PAINTED = 8  # pictures of the training set that the report shows
_LEGEND = (
    "PSNR in dB and SSIM, to the true counterfactual; inside and outside the silhouettes of the sofa, before and "
    "after, or of whatever the edit changes. Factor right: the strict reader finds all that the edit asks for. "
    "No-op: the scene already is what the edit asks for, and the input itself is the truth."
)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left }
tr.student td { font-weight: 600 } figure { margin: 0 } img { max-width: 100%; image-rendering: auto }
.painted { display: grid; grid-template-columns: repeat(4, 1fr); gap: .8rem; font-size: 12px }
pre { background: #f6f6f4; padding: 1rem; overflow-x: auto; font-size: 12px } .scroll { overflow-x: auto }
"""


def text_table(evaluation: Mapping[str, Any]) -> str:
    """The numbers of evaluation.json for a terminal: the student of each edit, then all means."""
    header, *rows = _cells(evaluation, short=True)
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(w) if place < 3 else cell.rjust(w)
            for place, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def markdown_table(evaluation: Mapping[str, Any]) -> str:
    """The same in Markdown, all rows."""
    header, *rows = _cells(evaluation, short=False)
    rule = ["---"] * 3 + ["---:"] * (len(header) - 3)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def write_report(recipe: Recipe, out: Path) -> Path:
    """Write the run's report.html from what is in its folder; one file that needs nothing beside it."""
    run = RunFolder(out)
    body = [f"<h1>{html.escape(recipe.name)}</h1>", f"<p>Validated on: {html.escape(recipe.validated_on)}.</p>"]
    if run.promotion.exists():
        body.append(f"<p>{html.escape(json.loads(run.promotion.read_text())['why'])}</p>")
    if run.evaluation.exists():
        evaluation = json.loads(run.evaluation.read_text())
        body.append(
            f"<h2>Numbers</h2><p>{evaluation['num_scenes']} unseen drawn scenes, {evaluation['split']} split.</p>"
        )
        body.append(f'<div class="scroll">{_html_table(evaluation)}</div><p>{html.escape(_LEGEND)}</p>')
    else:
        body.append("<p>Not measured: drawn scenes cannot judge this teacher. Look at the samples.</p>")
    if run.grid.exists():
        body.append(
            f"<h2>Unseen scenes</h2>{html_figure(run.grid.read_bytes(), 'input, translated, true counterfactual')}"
        )
    samples = sorted(run.samples.glob("step_*.png"))
    if samples:
        body.append("<h2>Painted images, edited by the student at its last step</h2>")
        body.append(html_figure(samples[-1].read_bytes(), "; ".join(["input", *recipe.edits])))
    body.append(f"<h2>Some of the {_painted_count(run)} painted images</h2>{_painted(run)}")
    body.append(f"<h2>Training</h2>{_training(run)}")
    body.append(f"<h2>Recipe</h2><pre>{html.escape(to_toml(recipe))}</pre>")
    write_whole(run.report, html_page(recipe.name, body))
    return run.report


def html_page(title: str, body: Sequence[str]) -> bytes:
    """One self-contained page of parts that are HTML already."""
    head = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>\n'
    )
    return (head + "\n".join(body) + "\n</html>\n").encode()


def html_figure(encoded: bytes, caption: str, kind: str = "png") -> str:
    """A picture inside the page, with its caption. `encoded`: PNG, or what `kind` says."""
    source = base64.b64encode(encoded).decode()
    text = html.escape(caption)
    picture = f'<img src="data:image/{kind};base64,{source}" alt="{text}">'
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"


def _cells(evaluation: Mapping[str, Any], short: bool) -> list[list[str]]:
    """Header and rows. `short`: of single edits the student's rows alone."""
    rows = [
        row for row in evaluation["edits"] if not short or (row["method"] == "student" and row["scenes"] == "edited")
    ]
    return [
        ["edit", "scenes", "method", *_COLUMNS],
        *([row["edit"], row["scenes"], row["method"], *_figures(row)] for row in [*rows, *evaluation["means"]]),
    ]


def _figures(row: Mapping[str, Any]) -> Iterator[str]:
    for name, form in _COLUMNS.values():
        yield "-" if row[name] is None else form.format(row[name])


def _html_table(evaluation: Mapping[str, Any]) -> str:
    header, *rows = _cells(evaluation, short=False)
    lines = ["<table><tr>" + "".join(f"<th>{cell}</th>" for cell in header) + "</tr>"]
    for row in rows:
        mark = ' class="student"' if row[2] == "student" else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _painted_count(run: RunFolder) -> int:
    from synth.dataset import PaintedSet

    return len(PaintedSet(run.dataset))


def _painted(run: RunFolder) -> str:
    from PIL import Image

    from synth.dataset import PaintedSet

    painted = PaintedSet(run.dataset)
    figures = []
    for index in range(min(_NUM_PAINTED, len(painted))):
        image = Image.fromarray(painted.image(index))
        image.thumbnail((256, 256))
        encoded = io.BytesIO()
        image.save(encoded, "PNG")
        figures.append(html_figure(encoded.getvalue(), painted.prompts[index]))
    return f'<div class="painted">{"".join(figures)}</div>'


def _training(run: RunFolder) -> str:
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()] if run.metrics.exists() else []
    if not rows:
        return "<p>No log.</p>"
    minutes = sum(row["seconds"] for row in rows) / 60
    last = ", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items() if name not in ("step", "seconds"))
    return f"<p>{rows[-1]['step']} steps in {minutes:.1f} minutes; at the last one {html.escape(last)}.</p>"
