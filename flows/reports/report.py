"""A run as tables, for the terminal and for Prefect, and as one self-contained HTML page."""

import html
import io
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flows.config.schema import Recipe
from flows.config.toml import to_toml
from flows.reports.html import curves, page, picture, wipe
from flows.reports.tables import scenes_of, table_cells
from flows.run.folder import RunFolder
from flows.run.promotion import read_verdict
from synth.files import write_bytes

_NUM_PAINTED = 8  # images of the training set that the report shows
_CURVES = {
    "dds": "mean square of the delta score; no sign of convergence",
    "identity": "how far the student moves its input",
    "grad_norm": "norm of the gradient",
    "guidance_scale": "guidance scale omega",
    "lambda_id": "weight of the identity, lambda_id",
    "learning_rate": "learning rate",
}
_LEGEND = (
    "PSNR in dB and SSIM, to the true counterfactual; inside and outside the silhouettes of the sofa, before and "
    "after, or of whatever the edit changes. Factor right: the strict reader finds all that the edit asks for. "
    "Held-out: of the edited, those that show a combination which the teacher never saw. "
    "No-op: the scene already is what the edit asks for, and the input itself is the truth."
)

_USE = """distillery translate {folder}/model.onnx photo.jpg --edit {edit} --out edited

from inference.runtime import Translator  # numpy, Pillow and onnxruntime alone
translator = Translator.load("{folder}/model.onnx")
translator("photo.jpg", "{edit}", strength=1.0).save("edited.png")"""


def write_report(recipe: Recipe, out: Path) -> Path:
    """Write the run's report.html from what is in its folder; one file that needs nothing beside it."""
    run = RunFolder(out)
    head = [f"<h1>{html.escape(recipe.name)}</h1>", f"<p>Validated on: {html.escape(recipe.validated_on)}.</p>"]
    if run.promotion.exists():
        head.append(f"<p>{html.escape(read_verdict(run).why)}</p>")
    sections = {
        "Numbers": _numbers(run),
        "Before and after": _before_and_after(recipe, run),
        "Unseen scenes": _grid(run),
        "Painted images, edited by the student at its last step": _samples(recipe, run),
        f"Some of the {_painted_count(run)} painted images": _painted(run),
        "Rejected": _rejects(run),
        "Training": _training(run),
        "The file beside PyTorch": _parity(run),
        "Time": _times(run),
        "How to use it": _use(recipe, run),
        "Recipe": f"<details><summary>as resolved</summary><pre>{html.escape(to_toml(recipe))}</pre></details>",
    }
    body = [f"<h2>{title}</h2>{content}" for title, content in sections.items() if content]
    write_bytes(run.report, page(recipe.name, [*head, *body]))
    return run.report


def _numbers(run: RunFolder) -> str:
    evaluation = run.read_evaluation()
    if evaluation is None:
        return "<p>Not measured: drawn scenes cannot judge this teacher. Look at the images.</p>"
    means = _html_table({**evaluation, "edits": []})
    return (
        f"<p>{html.escape(scenes_of(evaluation))}. {html.escape(_LEGEND)}</p>"
        f"{means}<details><summary>each edit by itself</summary>{_html_table({**evaluation, 'means': []})}</details>"
    )


def _html_table(evaluation: Mapping[str, Any]) -> str:
    header, *rows = table_cells(evaluation, short=False)
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in header) + "</tr>"]
    for row in rows:
        mark = ' class="student"' if row[2] == "student" else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return f'<div class="scroll"><table class="numbers">{"".join(lines)}</table></div>'


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table whose first column is words."""
    header = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in rows[0])
    lines = ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row.values()) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in [header, *lines])
    return f'<div class="scroll"><table class="words">{body}</table></div>'


def _before_and_after(recipe: Recipe, run: RunFolder) -> str:
    """Each edit of a picture of its own, by the file that ships."""
    if not run.model.exists():
        return ""
    from inference.runtime import Translator

    translator, figures = Translator.load(run.model, ["cpu"]), []
    for place, edit in enumerate(recipe.edits):
        before = _image_for(recipe, run, place)
        figures.append(wipe(before, Image.fromarray(translator(np.asarray(before), edit)), edit))
    whose = "unseen drawn scenes" if run.evaluation.exists() else "images of the painted set"
    return f'<p>{whose.capitalize()}; move the handle.</p><div class="several">{"".join(figures)}</div>'


def _image_for(recipe: Recipe, run: RunFolder, place: int) -> Image.Image:
    if run.evaluation.exists():
        from distill.counterfactuals import choose_scenes
        from synth.world.scenes import render

        edit, settings = list(recipe.edits.values())[place], recipe.evaluation
        scenes = choose_scenes(recipe.edits, settings.num_scenes, settings.split, settings.given)
        others = [scene for scene in scenes if scene.replace(**edit) != scene] or scenes
        return Image.fromarray(render(others[place % len(others)]).image)
    from synth.dataset.image_dataset import ImageDataset

    painted = ImageDataset(run.dataset)
    return Image.fromarray(painted.image(place % len(painted)))


def _grid(run: RunFolder) -> str:
    return picture(run.grid.read_bytes(), "input, translated, true counterfactual") if run.grid.exists() else ""


def _samples(recipe: Recipe, run: RunFolder) -> str:
    samples = sorted(run.samples.glob("step_*.png"))
    return picture(samples[-1].read_bytes(), "; ".join(["input", *recipe.edits])) if samples else ""


def _painted_count(run: RunFolder) -> int:
    from synth.dataset.image_dataset import ImageDataset

    return len(ImageDataset(run.dataset))


def _painted(run: RunFolder) -> str:
    from synth.dataset.image_dataset import ImageDataset

    painted = ImageDataset(run.dataset)
    figures = []
    for index in range(min(_NUM_PAINTED, len(painted))):
        image = Image.fromarray(painted.image(index))
        image.thumbnail((256, 256))
        encoded = io.BytesIO()
        image.save(encoded, "PNG")
        figures.append(picture(encoded.getvalue(), painted.prompts[index]))
    return f'<div class="several">{"".join(figures)}</div>'


def _rejects(run: RunFolder) -> str:
    from synth.dataset.card import count_rejects
    from synth.dataset.store import Store

    counts = count_rejects(Store(run.dataset))
    if not counts:
        return "<p>No image was rejected.</p>"
    return _table([{"reason": reason, "images": count} for reason, count in counts.most_common()])


def _training(run: RunFolder) -> str:
    rows = run.read_metrics()
    if not rows:
        return "<p>No log.</p>"
    minutes = sum(row["seconds"] for row in rows) / 60
    return f"<p>{rows[-1]['step']} steps in {minutes:.1f} minutes.</p>{curves(rows, _CURVES)}"


def _parity(run: RunFolder) -> str:
    if not run.model.exists():
        return ""
    from inference.runtime import Translator

    cases = Translator.load(run.model, ["cpu"]).metadata["parity_cases"]
    rows = [
        {
            "input": f"{case['batch']} of {case['height']} x {case['width']}",
            "largest difference, of 2": f"{case['max_difference']:.1e}",
            "PSNR, dB": f"{case['psnr_db']:.1f}",
        }
        for case in cases
    ]
    return f"<p>What model.onnx answers beside PyTorch.</p>{_table(rows)}"


def _times(run: RunFolder) -> str:
    seconds = run.seconds()
    if not seconds:
        return ""
    rows = [{"stage": stage, "time": str(timedelta(seconds=round(took)))} for stage, took in seconds.items()]
    return f"<p>Attempts that were killed are not counted.</p>{_table(rows)}"


def _use(recipe: Recipe, run: RunFolder) -> str:
    return f"<pre>{html.escape(_USE.format(folder=run.path, edit=next(iter(recipe.edits))))}</pre>"
