"""A run's model file against the true counterfactuals, where the drawn world can judge it."""

import io
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from flows.config.naming import digest
from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from flows.shared_teacher import open_teacher
from synth.errors import RecipeError, RunError
from synth.files import write_bytes, write_text

if TYPE_CHECKING:
    from distill.counterfactuals import Reader
    from distill.metrics import Images
    from synth.teacher.teacher import Teacher

logger = logging.getLogger(__name__)

_NUM_GRID_ROWS = 6
_MEASURE_AT = 128  # px: the one size that the factor readers know; a model file takes any


def has_true_answers(recipe: Recipe) -> bool:
    """Whether drawn scenes can judge the run: its teacher knows the drawn world, and the world knows its edits."""
    from distill.counterfactuals import choose_scenes

    if recipe.teacher.id != "miniature":
        return False
    try:
        choose_scenes(recipe.edits, 1, recipe.evaluation.split, recipe.evaluation.given)
    except RecipeError:
        return False
    return True


def evaluate_model(
    recipe: Recipe,
    out: Path,
    reader: "Reader | None" = None,
    split: str | None = None,
    num_scenes: int | None = None,
) -> Path:
    """Measure the run's model file on unseen drawn scenes; writes evaluation.json and grid.png.

    On the recipe's own split the means go into the model's own metadata besides. Another split has files of its own,
    such as evaluation-shifted.json and grid-shifted.png: it tells how far a model carries, and chooses none.

    Args:
        recipe: of the run.
        out: the run folder, exported.
        reader: the strict factor reader, unless another.
        split: of the drawn world; None is the recipe's own.
        num_scenes: None is the recipe's own number.

    Returns:
        The path of the figures.

    Raises:
        RunError: if there is no model file yet.
        RecipeError: if the drawn world does not know the recipe's edits.
    """
    from distill.counterfactuals import average, choose_scenes, evaluate_edits, grid_image
    from inference.export.formats import record_metrics
    from inference.runtime import Translator
    from synth.world.readers import FactorReader

    run, settings = RunFolder(out), recipe.evaluation
    if not run.model.exists():
        raise RunError(f"{out} has no model file yet: `distillery export {out}` writes one")
    if num_scenes is not None:
        settings = settings.model_copy(update={"num_scenes": num_scenes})
    elsewhere = "" if split in (None, settings.split) else f"-{split}"
    split = split or settings.split
    file, grid = (path.with_stem(path.stem + elsewhere) for path in (run.evaluation, run.grid))
    made_from = digest(run.fingerprint_of("export"), settings.model_dump(mode="json"), split)
    if run.is_done(f"evaluate{elsewhere}", made_from, file, grid):
        logger.info(f"{run.model} is measured already")
        return file
    scenes = choose_scenes(recipe.edits, settings.num_scenes, split, settings.given)
    translator, teacher = Translator.load(run.model), open_teacher(recipe.teacher)
    num_edited = sum(scene.replace(**edit) != scene for edit in recipe.edits.values() for scene in scenes)
    num_no_op = len(recipe.edits) * min(settings.num_no_op_scenes, len(scenes))
    with tqdm(total=num_edited + num_no_op, desc="measuring", unit="image") as bar:

        def translate(images: "Images", edit: str) -> "Images":
            bar.update(len(images))
            return translator(images, edit)

        rows = evaluate_edits(
            translate,
            recipe.edits,
            scenes,
            lambda images: _through_vae(teacher, images),
            reader or FactorReader.load(),
            settings.num_no_op_scenes,
            _MEASURE_AT,
        )
    means = average(rows)
    page = io.BytesIO()
    grid_image(translator, recipe.edits, scenes[:_NUM_GRID_ROWS], _MEASURE_AT).save(page, "PNG")
    write_bytes(grid, page.getvalue())
    figures = {
        "split": split,
        "num_scenes": settings.num_scenes,
        "given": settings.given,
        "edits": [asdict(row) for row in rows],
        "means": [asdict(row) for row in means],
    }
    write_text(file, json.dumps(figures, indent=2) + "\n")
    if not elsewhere:
        record_metrics(run.model, {"split": split, "means": figures["means"]})
    run.mark_done(f"evaluate{elsewhere}", made_from)
    return file


def compare_with_zero_shot(recipe: Recipe, out: Path, num_scenes: int) -> str:
    """The run's model file beside zero-shot methods, image by image; writes the study into `zero-shot/`.

    Args:
        recipe: of the run.
        out: the run folder, exported.
        num_scenes: unseen scenes of each edit, of the recipe's own split.

    Returns:
        What it shows.

    Raises:
        RunError: if there is no model file yet, or another one's figures are in `zero-shot/`.
        RecipeError: if the drawn world does not know the recipe's edits.
    """
    from distill.counterfactuals import choose_scenes
    from distill.studies.student import Distilled
    from flows.evaluation.studies import run_study
    from inference.runtime import Translator

    run, settings = RunFolder(out), recipe.evaluation
    if not run.model.exists():
        raise RunError(f"{out} has no model file yet: `distillery export {out}` writes one")
    choose_scenes(recipe.edits, 1, settings.split, settings.given)  # refuses what the world does not know
    measured = settings.model_copy(update={"num_scenes": num_scenes})
    study = Distilled(Translator.load(run.model), run.fingerprint_of("export"), recipe.edits, measured)
    return run_study(study, open_teacher(recipe.teacher), out / "zero-shot")


def _through_vae(teacher: "Teacher", images: "Images") -> "Images":
    """uint8 (N, H, W, 3) through the teacher's encoder and decoder: what it can show at all."""
    import torch

    from synth.pixels import to_float, to_uint8

    return to_uint8(teacher.decode(teacher.encode(to_float(torch.from_numpy(images)).to(teacher.device))))
