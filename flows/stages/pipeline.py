"""The main flow: all stages, from words to a model file."""

import logging
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.config.parameter import RecipeParameter
from flows.config.schema import Recipe
from flows.evaluation.scenes import has_true_answers
from flows.orchestration.artifacts import artifact_key, show_link, show_markdown
from flows.orchestration.progress import in_a_run
from flows.orchestration.retries import RETRIES
from flows.planning.forecast import announce
from flows.planning.preflight import check_hours, preflight, require
from flows.reports.tables import markdown_table
from flows.run.promotion import check_latest, read_verdict
from flows.run.remote_pointer import promote_among_machines
from flows.run.retention import clear_old_runs
from flows.stages.compress import compress
from flows.stages.distill import distill
from flows.stages.evaluate import evaluate
from flows.stages.export import export
from flows.stages.frame import OpenRun, open_run, report, run_task
from flows.stages.synthesize import synthesize
from synth.markdown import escape

logger = logging.getLogger(__name__)


@flow(name="pipeline", flow_run_name="{recipe.name}")
def pipeline(
    recipe: RecipeParameter, out: Path | None = None, data: str | None = None, overrides: tuple[str, ...] = ()
) -> Path:
    """Paint, distil, compress, export, measure, promote and report, resuming from what is on disk.

    Args:
        recipe: the teacher, the scenes, the edits, and their settings.
        out: the run folder (default: runs/NAME-FINGERPRINT, the same for the same recipe).
        data: the dataset's folder or URL, e.g. s3://bucket/sofas (default: a folder in the run folder).
        overrides: keys of the recipe that differ, as `--set` takes them: "training.steps=200".

    Returns:
        The path of the model file.

    Raises:
        DistilleryError: in one line, for anything that the user can fix.
    """
    with open_run("{name} in {out}", recipe, out, overrides, data) as run:
        check_latest(run.recipe, run.folder.path)
        require(preflight(run.recipe, run.folder.path))
        require([check_hours(run.recipe, announce(run.recipe, run.folder))])
        synthesize(run)
        distill(run)
        if run.recipe.pixel.size != "none":
            compress(run)
        export(run)
        if has_true_answers(run.recipe):
            evaluate(run)
        promote(run)
        if not report(run):
            logger.info(f"nothing to do: the run in {run.folder.path} is complete")
        elif in_a_run():
            _show(run)
    for path in clear_old_runs(run.recipe, run.folder.path):
        logger.info(f"deleted the old run {path} (operations.keep_runs)")
    return run.folder.model


def promote(run: OpenRun) -> None:
    """Sixth stage: point the recipe's `latest` to this run's model if it is good enough."""
    logger.info(run_task(promote_task, run.recipe, run.folder.path))


@task(name="promote", cache_policy=NO_CACHE, **RETRIES)
def promote_task(recipe: Recipe, out: Path) -> str:
    """Compare and promote; returns why `latest` names the run's model now, or not."""
    return promote_among_machines(recipe, out).why


def _show(run: OpenRun) -> None:
    """Show in the UI the verdict, the metrics and where the report is."""
    name, folder = run.recipe.name, run.folder
    page = f"{escape(read_verdict(folder).why)}\n"
    if (evaluation := folder.read_evaluation()) is not None:
        page += f"\n{markdown_table(evaluation)}\n"
    show_markdown(artifact_key(name, "outcome"), page, f"{name}: the outcome")
    show_link(artifact_key(name, "report"), folder.report, f"{name}: the report")
