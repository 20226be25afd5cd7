"""The report: a run on one self-contained HTML page."""

import io
import shlex
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flows.config.schema import Recipe
from flows.config.toml import to_toml
from flows.reports.charts import training_charts
from flows.reports.html import CaptionedImage, Wipe, captioned, render_page, wipe
from flows.reports.tables import file_cells, scenes_of, table_cells
from flows.run.excerpt import Excerpt, read_excerpt
from flows.run.folder import RunFolder
from flows.run.promotion import read_verdict
from synth.files import write_bytes
from synth.markdown import python_string

_NUM_PAINTED = 8  # images of the training set that the report shows
_PAINTED_SIDE = 256  # px, at most
_CURVES = {
    "dds": "mean square of the delta score; no sign of convergence",
    "identity": "how far the student moves its input",
    "grad_norm": "norm of the gradient",
    "guidance_scale": "guidance scale omega",
    "lambda_id": "weight of the identity, lambda_id",
    "learning_rate": "learning rate",
}


def write_report(recipe: Recipe, out: Path) -> Path:
    """Write the run's report.html from what is in its folder."""
    run = RunFolder(out)
    excerpt = read_excerpt(run)
    page = render_page(
        "report.html",
        title=recipe.name,
        recipe=recipe,
        verdict=read_verdict(run).why if run.promotion.exists() else "",
        metrics=_metrics(run),
        before_and_after=_before_and_after(recipe, run, excerpt),
        grid=captioned(run.grid.read_bytes(), "input, translated, true counterfactual")
        if run.grid.exists()
        else None,
        pixel_grid=_pixel_grid(run),
        samples=_samples(recipe, run),
        num_painted=excerpt.num_images,
        painted=[
            _painted(pixels, prompt)
            for pixels, prompt in zip(excerpt.images[:_NUM_PAINTED], excerpt.prompts[:_NUM_PAINTED], strict=True)
        ],
        rejects=[{"reason": reason, "images": count} for reason, count in excerpt.rejects.items()],
        training=_training(run),
        parity=_parity(run),
        times=[{"stage": stage, "time": _rounded(seconds)} for stage, seconds in run.seconds().items()],
        usage=_usage(recipe, run),
        recipe_toml=to_toml(recipe),
    )
    write_bytes(run.report, page)
    return run.report


def _metrics(run: RunFolder) -> dict[str, Any] | None:
    evaluation = run.read_evaluation()
    if evaluation is None:
        return None
    return {
        "scenes": scenes_of(evaluation),
        "files": file_cells(evaluation),
        "means": table_cells({**evaluation, "edits": []}, short=False),
        "edits": table_cells({**evaluation, "means": []}, short=False),
    }


def _before_and_after(recipe: Recipe, run: RunFolder, excerpt: Excerpt) -> list[Wipe]:
    """Each edit of another image, by the file that ships."""
    if not run.model.exists():
        return []
    from inference.runtime import Translator

    translator = Translator.load(run.model, ["cpu"])
    wipes = []
    for index, edit in enumerate(recipe.edits):
        before = _image_for(recipe, run, excerpt, index)
        after = Image.fromarray(translator(np.asarray(before), edit))
        wipes.append(wipe(before, after, edit))
    return wipes


def _image_for(recipe: Recipe, run: RunFolder, excerpt: Excerpt, index: int) -> Image.Image:
    """An input for the edit of this index: a drawn scene that it changes, or a painted image."""
    if run.evaluation.exists():
        from distill.evaluation.counterfactuals import choose_scenes
        from synth.world.scenes import render

        edit = list(recipe.edits.values())[index]
        settings = recipe.evaluation
        scenes = choose_scenes(recipe.edits, settings.num_scenes, settings.split, settings.given)
        changed = [scene for scene in scenes if scene.replace(**edit) != scene] or scenes
        return Image.fromarray(render(changed[index % len(changed)]).image)
    return Image.fromarray(excerpt.images[index % len(excerpt.images)])


def _pixel_grid(run: RunFolder) -> CaptionedImage | None:
    """The unseen scenes by the pixel network, if it was measured."""
    evaluation, grid = run.read_evaluation(), run.pixel_grid("")
    if evaluation is None or len(evaluation.get("files", [])) < 2 or not grid.exists():
        return None
    return captioned(grid.read_bytes(), "input, translated by the pixel network, true counterfactual")


def _samples(recipe: Recipe, run: RunFolder) -> CaptionedImage | None:
    samples = run.sample_grids()
    return captioned(samples[-1].read_bytes(), "; ".join(["input", *recipe.edits])) if samples else None


def _painted(pixels: np.ndarray, prompt: str) -> CaptionedImage:
    image = Image.fromarray(pixels)
    image.thumbnail((_PAINTED_SIDE, _PAINTED_SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return captioned(encoded.getvalue(), prompt)


def _training(run: RunFolder) -> dict[str, Any] | None:
    rows = run.read_metrics()
    if not rows:
        return None
    minutes = sum(row["seconds"] for row in rows) / 60
    return {"steps": rows[-1]["step"], "minutes": f"{minutes:.1f}", "charts": training_charts(rows, _CURVES)}


def _parity(run: RunFolder) -> list[Mapping[str, str]]:
    if not run.model.exists():
        return []
    from inference.runtime import Translator

    cases = Translator.load(run.model, ["cpu"]).metadata["parity_cases"]
    return [
        {
            "input": f"{case['batch']} of {case['height']} x {case['width']}",
            "largest difference, of 2": f"{case['max_difference']:.1e}",
            "PSNR, dB": f"{case['psnr_db']:.1f}",
        }
        for case in cases
    ]


def _rounded(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _usage(recipe: Recipe, run: RunFolder) -> dict[str, str]:
    """The arguments of the usage example, which starts in the run folder, each quoted for its language."""
    edit = next(iter(recipe.edits))
    return {
        "edit": shlex.quote(edit),
        "shell_model": shlex.quote(run.model.name),
        "python_model": python_string(run.model.name),
        "python_edit": python_string(edit),
    }
