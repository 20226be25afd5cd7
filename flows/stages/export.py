"""Third stage: the student becomes a model file, and the file is measured where there is a true answer."""

import json
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.config.recipe import Recipe
from flows.evaluation.scenes import evaluate_task, has_true_answers
from flows.orchestration.flow_run import name_run, start
from flows.orchestration.progress import key_of, markdown_image, say, show_link, show_markdown, show_table
from flows.orchestration.retries import RETRIES, exclusive_gpu
from flows.run.folder import RunFolder, digest
from flows.run.remote_copy import keep_task, take_up_task
from flows.stages.synthesize import open_teacher
from inference.settings import MAIN, OWN_VAE, Kind
from synth.errors import RunError

_NUM_PARITY_IMAGES = 4
_NUM_CALIBRATION_IMAGES = 64  # for int8; others than those of the parity check


def export(recipe: Recipe, out: Path) -> Path:
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
        say(f"{files[kind]} is up to date: nothing to export")
    if not missing:
        RunFolder.open_or_create(recipe, out)
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
    RunFolder.open_or_create(recipe, out)  # not before it is known that the recipe can be followed
    for kind, report in export_files(
        vae, student, metadata, missing, parity_images, calibration_images, recipe.export
    ):
        if kind == MAIN and run.drop_metrics():
            say(f"the figures were of the file before: `distillery evaluate translator {out}` measures this one")
        run.mark_done(_stage(kind), made_from)
        say(
            f"{files[kind]} differs from PyTorch by {report.max_difference:.1e} at most (of 2), "
            f"{report.min_psnr_db:.1f} dB at least"
        )
    return run.model


def _stage(kind: Kind) -> str:
    """The name under which the run folder keeps what a file was made from; the main one's goes on to its figures."""
    return "export" if kind == MAIN else f"export {kind.file_name}"


@task(name="export", cache_policy=NO_CACHE, **RETRIES)
def export_task(recipe: Recipe, out: Path) -> Path:
    """The model files."""
    return export(recipe, out)


@flow(name="export", flow_run_name="{out}")
def export_flow(out: Path, recipe: Recipe | None = None, changes: tuple[str, ...] = ()) -> Path:
    """A student -> a model file, measured where the drawn world can judge it.

    Args:
        out: the run folder.
        recipe: of the run; left out, the one in its folder.
        changes: keys of the recipe that are other, such as "export.opset=21".
    """
    recipe = recipe or RunFolder(out).load_recipe()
    recipe = start(recipe, changes)
    name_run(f"export {recipe.name} in {out}")
    take_up_task(recipe, out)
    run = RunFolder.open_or_create(recipe, out)
    before = run.last_work()
    limit = recipe.operations.timeout_hours * 3600
    with exclusive_gpu(recipe.teacher.device):
        with run.timed("export"):
            model = export_task.with_options(timeout_seconds=limit)(recipe, out)
        if has_true_answers(recipe):
            with run.timed("measuring"):
                evaluate_task.with_options(timeout_seconds=limit)(recipe, out)
    if run.last_work() != before:
        keep_task(recipe, out)
        _show(recipe, run)
    return model


def _show(recipe: Recipe, run: RunFolder) -> None:
    """In the UI: how the file agrees with PyTorch, the figures, the grid, and where the file is."""
    from inference.runtime import Translator

    name = recipe.name
    parity = Translator.load(run.model, ["cpu"]).metadata["parity_cases"]
    show_table(key_of(name, "parity"), parity, f"{name}: the model file beside PyTorch")
    show_link(key_of(name, "model"), run.model, f"{name}: the model file")
    if run.evaluation.exists():
        figures = json.loads(run.evaluation.read_text())
        rows = [*figures["edits"], *figures["means"]]
        show_table(key_of(name, "numbers"), rows, f"{name}: {figures['num_scenes']} scenes, {figures['split']} split")
    if run.grid.exists():
        page = markdown_image(run.grid.read_bytes(), "input, translated, true counterfactual")
        show_markdown(key_of(name, "grid"), page, f"{name}: input, translated, true counterfactual")
