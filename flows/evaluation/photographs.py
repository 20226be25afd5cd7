"""Evaluate a run's model file on photographs: a contact sheet, and metrics that need no ground truth."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from synth.errors import RunError
from synth.files import write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIDE = 256  # px; images are compared as squares of this side
Metrics = dict[str, float | None]


def show_photographs(
    recipe: Recipe,
    out: Path,
    images: Path,
    source: str | None = None,
    lpips: bool = False,
    clip: str | None = None,
    dino: str | None = None,
) -> tuple[dict[str, Metrics], list[str]]:
    """Apply every edit of a run to images, and measure the results.

    `photographs/` in the run folder gets the edited images, contact_sheet.png and metrics.json.

    Args:
        recipe: the run's recipe.
        out: the exported run's folder.
        images: a folder of images, or one image.
        source: what the images show, for CLIP's direction (default: the recipe's photos.source).
        lpips: whether to measure LPIPS.
        clip: a CLIP model's Hub id or folder.
        dino: a DINO model's Hub id or folder.

    Returns:
        The metrics of each edit, and a line for each problem, for what was left out of an image, and for each metric
        that was not measured.

    Raises:
        RunError: if there is no model file yet, or no image can be read.
        TeacherError: for a model that cannot be opened.
    """
    import numpy as np

    from distill.evaluation.diagnostics import measure_change
    from inference.contact_sheet import ContactSheet
    from inference.idle_gpu import warn_of_idle_gpu
    from inference.inputs import list_inputs
    from inference.media.translate import Edits, Outcome, translate_all
    from inference.results import Results
    from inference.runtime import Translator

    run = RunFolder(out)
    if not run.model.exists():
        raise RunError(f"{out} has no model file yet: `distillery export {out}` writes one")
    if source is None and recipe.photos is not None:
        source = recipe.photos.source
    # A wrong model is refused before any image is edited.
    measures, missing = _measures(source, lpips, clip, dino)
    folder = out / "photographs"
    translator = Translator.load(run.model)
    warn_of_idle_gpu(translator.providers)
    edits = translator.edits
    inputs, results = list_inputs([images], folder), Results(folder)
    sheet, outcome = ContactSheet(list(edits)), Outcome(problems=inputs.problems, notes=inputs.notes)
    work = translate_all(Edits(translator, list(edits)), inputs.images, results, sheet, outcome)
    made = list(tqdm(work, total=len(inputs.images), unit="image"))  # fewer than the images if the disk is full
    done = [(image.path, paths) for image, paths in zip(inputs.images, made, strict=False) if paths]
    problems, notes = outcome.problems, outcome.notes
    if not done:
        raise RunError(f"none of the images at {images} could be read: {problems[0]}")
    sheet.write(results)
    table: dict[str, Metrics] = {}
    before = np.stack([_square(path) for path, _ in done])  # (N, _SIDE, _SIDE, 3)
    for edit, text in edits.items():
        after = np.stack([_square(paths[edit]) for _, paths in done])
        change = measure_change(before, after)
        table[edit] = {"changed": change.changed_share, "variety": change.variety}
        table[edit] |= {name: float(measure(before, after, text).mean()) for name, measure in measures.items()}
    metrics = {"num_images": len(done), "edits": table, "not_measured": missing, "problems": problems}
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return table, [*problems, *notes, *missing]


def text_table(table: dict[str, Metrics]) -> str:
    """Format the metrics as a table for the terminal."""
    names = list(next(iter(table.values())))
    width = max(len(edit) for edit in table)
    lines = [f"{'edit':{width}}  {'  '.join(f'{name:>11}' for name in names)}"]
    for edit, metrics in table.items():
        cells = ("" if (value := metrics[name]) is None else f"{value:.3f}" for name in names)
        lines.append(f"{edit:{width}}  {'  '.join(f'{cell:>11}' for cell in cells)}")
    return "\n".join(lines)


def _measures(
    source: str | None, lpips: bool, clip: str | None, dino: str | None
) -> tuple[dict[str, Callable[..., Any]], list[str]]:
    """Metrics by name, each a function (before, after, target text) -> (N,); and why others are not measured."""
    from distill.evaluation.similarity import Clip, Lpips, Structure

    measures: dict[str, Callable[..., Any]] = {}
    missing = []
    if lpips:
        perceptual = Lpips()
        measures["LPIPS"] = lambda before, after, text: perceptual.distance(before, after)
    else:
        missing.append("LPIPS is not measured: add --lpips")
    if clip is not None:
        model = Clip(clip)
        measures["CLIP"] = lambda before, after, text: model.text_score(after, text)
        if source is not None:
            measures["directional"] = lambda before, after, text: model.directional(before, after, source, text)
        else:
            missing.append("CLIP's direction is not measured: say what the images show with --source")
    else:
        missing.append("CLIP scores are not measured: name a model, --clip openai/clip-vit-base-patch32 or a folder")
    if dino is not None:
        structure = Structure(dino)
        measures["structure"] = lambda before, after, text: structure.distance(before, after)
    else:
        missing.append("DINO's structure distance is not measured: name a model, --dino facebook/dino-vitb8")
    return measures, missing


def _square(path: Path) -> "NDArray[np.uint8]":
    """Read an image as a square, uint8 (_SIDE, _SIDE, 3)."""
    import numpy as np
    from PIL import Image, ImageOps

    from synth.images.encoding import open_image

    return np.asarray(ImageOps.fit(open_image(path), (_SIDE, _SIDE), Image.Resampling.LANCZOS))
