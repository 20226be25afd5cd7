"""Third stage: the student becomes model files."""

import logging
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.config.schema import Recipe
from flows.evaluation.scenes import has_true_answers
from flows.orchestration.artifacts import artifact_key, show_link, show_table
from flows.orchestration.retries import RETRIES
from flows.run.folder import RunFolder, digest
from flows.shared_teacher import open_teacher
from flows.stages.evaluate import evaluate
from flows.stages.frame import OpenRun, open_run, run_task, stage
from inference.settings import MAIN, OWN_VAE, Kind
from synth.errors import RunError

logger = logging.getLogger(__name__)

_NUM_PARITY_IMAGES = 4
_NUM_CALIBRATION_IMAGES = 64  # for int8; others than those of the parity check


@flow(name="export", flow_run_name="{out}")
def export_flow(out: Path, recipe: Recipe | None = None, overrides: tuple[str, ...] = ()) -> Path:
    """A student -> model files, measured where the drawn world can judge them.

    Args:
        out: the run folder.
        recipe: of the run (default: the one in its folder).
        overrides: keys of the recipe that differ, e.g. "export.opset=21".

    Returns:
        The path of the main model file.
    """
    recipe = recipe or RunFolder(out).load_recipe()
    with open_run("export {name} in {out}", recipe, out, overrides, adopt=False) as run:
        export(run)
        if has_true_answers(run.recipe):
            evaluate(run)
    return run.folder.model


def _show(run: OpenRun) -> None:
    """In the UI: how the main file agrees with PyTorch, and where it is."""
    from inference.runtime import Translator

    name = run.recipe.name
    parity = Translator.load(run.folder.model, ["cpu"]).metadata["parity_cases"]
    show_table(artifact_key(name, "parity"), parity, f"{name}: the model file beside PyTorch")
    show_link(artifact_key(name, "model"), run.folder.model, f"{name}: the model file")


@stage("export", _show)
def export(run: OpenRun) -> None:
    """Write the model files that the recipe asks for and that are not up to date."""
    run_task(export_task.with_options(timeout_seconds=run.seconds_limit), run.recipe, run.folder.path)


@task(name="export", cache_policy=NO_CACHE, **RETRIES)
def export_task(recipe: Recipe, out: Path) -> Path:
    """The model files."""
    return write_model_files(recipe, out)


def write_model_files(recipe: Recipe, out: Path) -> Path:
    """Write the run's model files, each held to PyTorch's own answers; returns the main one's path.

    Raises:
        RunError: if there is no student yet.
        ExportError: if a file would not agree with PyTorch; then it is not written, and all others are. Or if
            export.vae is not to be had, or does not fit.
    """
    import numpy as np

    from distill.students import load_student
    from inference.export.files import GRAPH, export_files
    from inference.export.tiny_vae import fingerprint, open_tiny_vae
    from inference.settings import ModelMetadata
    from synth.dataset.image_dataset import ImageDataset

    run = RunFolder(out)
    if not run.student.exists():
        raise RunError(f"{out} has no student yet: `distillery distill RECIPE --data SET --out {out}` trains one")
    vae_used = fingerprint(recipe.export.vae)
    made_from = digest(run.fingerprint_of("distill"), GRAPH, recipe.export.opset, vae_used, recipe.validated_on)
    files = {kind: out / kind.file_name for kind in recipe.export.kinds()}
    missing = {kind: path for kind, path in files.items() if not run.is_done(_stage(kind), made_from, path)}
    for kind in files.keys() - missing.keys():
        logger.info(f"{files[kind]} is up to date: nothing to export")
    if not missing:
        run.adopt(recipe)
        return run.model
    teacher, painted = open_teacher(recipe.teacher), ImageDataset(run.dataset)
    student = load_student(run.student)
    calibrated = any(kind.precision == "int8" for kind in missing)
    num_images = _NUM_PARITY_IMAGES + (_NUM_CALIBRATION_IMAGES if calibrated else 0)
    images = np.stack([painted.image(index) for index in range(min(num_images, len(painted)))])
    metadata = ModelMetadata(
        name=recipe.name,
        edits=student.edits,
        training_size=images.shape[1],
        teacher=teacher.name,
        licence=teacher.defaults.licence,
        vae=recipe.export.vae,
        data_fingerprint=painted.fingerprint,
        validated_on=recipe.validated_on,
    )
    parity_images, calibration_images = images[:_NUM_PARITY_IMAGES], images[_NUM_PARITY_IMAGES:]
    vae = teacher.vae if recipe.export.vae == OWN_VAE else open_tiny_vae(recipe.export.vae, teacher, parity_images)
    run.adopt(recipe)  # not before it has proved possible
    for kind, report in export_files(
        vae, student, metadata, missing, parity_images, calibration_images, recipe.export
    ):
        if kind == MAIN and run.drop_metrics():
            logger.info(f"the figures were of the file before: `distillery evaluate student {out}` measures this one")
        run.mark_done(_stage(kind), made_from)
        logger.info(
            f"{files[kind]} differs from PyTorch by {report.max_difference:.1e} at most (of 2), "
            f"{report.min_psnr_db:.1f} dB at least"
        )
    return run.model


def _stage(kind: Kind) -> str:
    """The name under which the run folder keeps what a file was made from; the main one's goes on to its figures."""
    return "export" if kind == MAIN else f"export {kind.file_name}"
