"""Fourth stage: write the student, and the pixel network, as model files."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.config.naming import digest
from flows.config.schema import Recipe
from flows.evaluation.scenes import has_true_answers
from flows.orchestration.artifacts import artifact_key, show_link, show_table
from flows.orchestration.retries import RETRIES
from flows.run.compressed import has_pixel_network
from flows.run.excerpt import NUM_PARITY_IMAGES, Excerpt, read_excerpt
from flows.run.folder import RunFolder
from flows.shared_teacher import open_teacher
from flows.stages.evaluate import evaluate
from flows.stages.frame import OpenRun, open_run, run_task, stage
from inference.settings import MAIN, OWN_VAE, Kind
from synth.errors import ExportError, RunError
from synth.templates import public_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from inference.export.parity import ParityReport
    from inference.settings import ModelMetadata

logger = logging.getLogger(__name__)


@flow(name="export", flow_run_name="{out}")
def export_flow(out: Path, recipe: Recipe | None = None, overrides: tuple[str, ...] = ()) -> Path:
    """Export a student to model files, and measure the main one where drawn scenes can judge it.

    Args:
        out: the run folder.
        recipe: the run's recipe (default: the one in its folder).
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
    """Show in the UI where the main file is and how well it agrees with PyTorch."""
    from inference.runtime import Translator

    name = run.recipe.name
    parity = Translator.load(run.folder.model, ["cpu"]).metadata["parity_cases"]
    show_table(artifact_key(name, "parity"), parity, f"{name}: the model file compared with PyTorch")
    show_link(artifact_key(name, "model"), run.folder.model, f"{name}: the model file")


@stage("export", _show)
def export(run: OpenRun) -> None:
    """Write the model files of the recipe that are not up to date."""
    run_task(export_task.with_options(timeout_seconds=run.seconds_limit), run.recipe, run.folder.path)


@task(name="export", cache_policy=NO_CACHE, **RETRIES)
def export_task(recipe: Recipe, out: Path) -> Path:
    """Write the model files."""
    return write_model_files(recipe, out)


def write_model_files(recipe: Recipe, out: Path) -> Path:
    """Write the run's model files that are not up to date, and check each against PyTorch.

    Those of the pixel network are written beside the student's, if the run has one.

    Args:
        recipe: the run's, which names the kinds of files.
        out: the run folder.

    Returns:
        The path of the main model file.

    Raises:
        RunError: if there is no student yet.
        ExportError: if a file does not agree with PyTorch, in which case only the others are written; or if
            export.vae cannot be loaded or does not fit.
    """
    run = RunFolder(out)
    if not run.student.exists():
        raise RunError(f"{out} has no student yet: `distillery distill RECIPE --data DATASET --out {out}` trains one")
    _write_student(recipe, run)
    if has_pixel_network(recipe, run):
        _write_pixel_network(recipe, run)
    elif recipe.pixel.size != "none":
        logger.info(f"there is no pixel network of this student yet: `distillery compress {out}` trains one")
    return run.model


def _write_student(recipe: Recipe, run: RunFolder) -> None:
    from distill.students import load_student
    from inference.export.files import GRAPH, export_files
    from inference.export.tiny_vae import open_tiny_vae
    from synth.teacher.identity import identify

    # A file is up to date if the student and everything else that it is made from are the same.
    vae_used = (
        OWN_VAE
        if recipe.export.vae == OWN_VAE
        else identify(recipe.export.vae, ExportError, "name another with export.vae")
    )  # not a folder of that name
    made_from = digest(run.fingerprint_of("distill"), GRAPH, recipe.export.opset, vae_used, recipe.validated_on)
    files = {kind: run.path / kind.file_name for kind in recipe.export.kinds()}
    missing = _missing(run, files, made_from)
    if not missing:
        run.adopt(recipe)
        return

    teacher = open_teacher(recipe.teacher)
    excerpt = read_excerpt(run)
    student = load_student(run.student)
    parity_images, calibration_images = _split(excerpt)
    metadata = _metadata(recipe, excerpt, student.edits).model_copy(update={"vae": public_name(recipe.export.vae)})
    vae = teacher.vae if recipe.export.vae == OWN_VAE else open_tiny_vae(recipe.export.vae, teacher, parity_images)
    run.adopt(recipe)  # not before the VAE has been loaded: a recipe that fails must not stay in the folder
    written = export_files(vae, student, metadata, missing, parity_images, calibration_images, recipe.export)
    _record(run, files, written, made_from)


def _write_pixel_network(recipe: Recipe, run: RunFolder) -> None:
    from distill.pixel import load_network
    from inference.export.files import GRAPH, export_pixel_files

    made_from = digest(run.fingerprint_of("compress"), GRAPH, recipe.export.opset, recipe.validated_on)
    files = {kind: run.path / kind.pixel_file_name for kind in recipe.export.kinds()}
    if not (missing := _missing(run, files, made_from)):
        return
    excerpt = read_excerpt(run)
    network = load_network(run.pixel_network)
    about = {"name": f"{recipe.name}-pixel", "network": f"pixel network, {recipe.pixel.size}: one pass, no VAE"}
    metadata = _metadata(recipe, excerpt, network.edits).model_copy(update=about)
    written = export_pixel_files(network, metadata, missing, *_split(excerpt), recipe.export)
    _record(run, files, written, made_from)


def _missing(run: RunFolder, files: Mapping[Kind, Path], made_from: str) -> dict[Kind, Path]:
    """Those of the files that are not up to date."""
    missing = {kind: path for kind, path in files.items() if not run.is_done(_stage(path), made_from, path)}
    for kind in files.keys() - missing.keys():
        logger.info(f"{files[kind]} is up to date: nothing to export")
    return missing


def _split(excerpt: Excerpt) -> tuple["NDArray[np.uint8]", "NDArray[np.uint8]"]:
    """The images that check the parity, and those that calibrate int8."""
    return excerpt.images[:NUM_PARITY_IMAGES], excerpt.images[NUM_PARITY_IMAGES:]


def _metadata(recipe: Recipe, excerpt: Excerpt, edits: dict[str, str]) -> "ModelMetadata":
    from inference.settings import ModelMetadata

    teacher = open_teacher(recipe.teacher)
    return ModelMetadata(
        name=recipe.name,
        edits=edits,
        training_size=excerpt.images.shape[1],
        network=f"student, {recipe.training.student}, between the encoder and the decoder of a VAE",
        teacher=public_name(teacher.name),
        licence=teacher.defaults.licence,
        data_fingerprint=excerpt.fingerprint,
        validated_on=recipe.validated_on,
    )


def _record(
    run: RunFolder, files: Mapping[Kind, Path], written: "Iterable[tuple[Kind, ParityReport]]", made_from: str
) -> None:
    """Record each file once it is written; metrics of a file that it replaces are dropped."""
    for kind, report in written:
        if kind == MAIN and run.drop_metrics():
            logger.info(
                f"dropped the metrics of the previous file: `distillery evaluate student {run.path}` measures the "
                "new one"
            )
        run.mark_done(_stage(files[kind]), made_from)
        logger.info(
            f"{files[kind]} differs from PyTorch by at most {report.max_difference:.1e} (of 2), "
            f"at least {report.min_psnr_db:.1f} dB"
        )


def _stage(path: Path) -> str:
    """The name under which the run folder records what a file was made from; the metrics build on the main one's."""
    return "export" if path.name == MAIN.file_name else f"export {path.name}"
