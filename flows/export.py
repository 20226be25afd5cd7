"""Third stage: the student becomes a model file, and the file is measured where there is a true answer."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from tqdm import tqdm

from flows.recipe import Recipe
from flows.run_folder import RunFolder, digest, write_whole
from flows.synthesize import open_teacher
from synth.errors import RecipeError, RunError

if TYPE_CHECKING:
    from distill.evaluate import Images, Reader
    from synth.teacher import Teacher

_NUM_PARITY_IMAGES = 4
_NUM_GRID_ROWS = 6
_MEASURE_AT = 128  # px: the one size that the factor readers know; a model file takes any


def export(recipe: Recipe, out: Path) -> Path:
    """Write the run's model file, held to PyTorch's own answers; returns its path.

    Raises:
        RunError: if there is no student yet.
        ExportError: if the file would not agree with PyTorch; then none is written.
    """
    import numpy as np

    from distill.translator import LatentTranslator
    from inference.export import export_onnx
    from inference.settings import ModelMetadata
    from synth.dataset import PaintedSet

    run = RunFolder.claim(recipe, out)
    if not run.student.exists():
        raise RunError(f"{out} has no student yet: `distillery distill RECIPE --data SET --out {out}` trains one")
    made_from = digest(run.fingerprint_of("distill"), recipe.export.model_dump(mode="json"), recipe.validated_on)
    if run.is_done("export", made_from, run.model):
        return run.model
    teacher, painted = open_teacher(recipe.teacher), PaintedSet(run.dataset)
    student = LatentTranslator.from_pretrained(run.student, use_safetensors=True)
    images = np.stack([painted.image(index) for index in range(min(_NUM_PARITY_IMAGES, len(painted)))])
    metadata = ModelMetadata(
        name=recipe.name,
        edits=student.edits,
        training_size=images.shape[1],
        teacher=teacher.name,
        licence=teacher.defaults.licence,
        data_fingerprint=painted.fingerprint,
        validated_on=recipe.validated_on,
    )
    export_onnx(teacher.vae, student, metadata, run.model, images, recipe.export)
    run.mark_done("export", made_from)
    return run.model


def has_true_answers(recipe: Recipe) -> bool:
    """Whether drawn scenes can judge the run: its teacher knows the drawn world, and the world knows its edits."""
    from distill.evaluate import choose_scenes

    if recipe.teacher.id != "miniature":
        return False
    try:
        choose_scenes(recipe.edits, 1, recipe.evaluation.split)
    except RecipeError:
        return False
    return True


def evaluate(recipe: Recipe, out: Path, reader: "Reader | None" = None) -> Path:
    """Measure the run's model file on unseen drawn scenes; writes evaluation.json, grid.png, and the means into the
    model's own metadata. Returns the path of evaluation.json.

    Raises:
        RunError: if there is no model file yet.
        RecipeError: if the drawn world does not know the recipe's edits.
    """
    from distill.evaluate import average, choose_scenes, evaluate_edits, grid_image
    from inference.export import record_metrics
    from inference.runtime import Translator
    from synth.miniature.readers import FactorReader

    run, settings = RunFolder.claim(recipe, out), recipe.evaluation
    if not run.model.exists():
        raise RunError(f"{out} has no model file yet: `distillery export {out}` writes one")
    made_from = digest(run.fingerprint_of("export"), settings.model_dump(mode="json"))
    if run.is_done("evaluate", made_from, run.evaluation, run.grid):
        return run.evaluation
    scenes = choose_scenes(recipe.edits, settings.num_scenes, settings.split)
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
    write_whole(run.grid, page.getvalue())
    figures = {
        "split": settings.split,
        "num_scenes": settings.num_scenes,
        "edits": [asdict(row) for row in rows],
        "means": [asdict(row) for row in means],
    }
    write_whole(run.evaluation, (json.dumps(figures, indent=2) + "\n").encode())
    record_metrics(run.model, {"split": settings.split, "means": figures["means"]})
    run.mark_done("evaluate", made_from)
    return run.evaluation


def _through_vae(teacher: "Teacher", images: "Images") -> "Images":
    """uint8 (N, H, W, 3) through the teacher's encoder and decoder: what it can show at all."""
    import torch

    from synth.pixels import to_float, to_uint8

    return to_uint8(teacher.decode(teacher.encode(to_float(torch.from_numpy(images)).to(teacher.device))))


@task(name="export", cache_policy=NO_CACHE)
def export_task(recipe: Recipe, out: Path) -> Path:
    """One ONNX file."""
    return export(recipe, out)


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate_task(recipe: Recipe, out: Path) -> Path:
    """The numbers and the grid."""
    return evaluate(recipe, out)


@flow(name="export", flow_run_name="{recipe.name}")
def export_flow(recipe: Recipe, out: Path) -> Path:
    """A student -> a model file, measured where the drawn world can judge it."""
    model = export_task(recipe, out)
    if has_true_answers(recipe):
        evaluate_task(recipe, out)
    return model
