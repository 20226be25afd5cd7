"""The main job, from words to a model file: the stages, joined."""

import json
import time
from pathlib import Path

from prefect import flow

from flows.config.recipe import Recipe
from flows.orchestration.flow_run import name_run, start
from flows.orchestration.progress import key_of, say, show_link, show_markdown
from flows.orchestration.retries import exclusive_gpu
from flows.reports.model_card import write_model_card
from flows.reports.report import markdown_table, write_report
from flows.run.folder import RunFolder
from flows.run.promotion import promote
from flows.run.remote_copy import keep_task, take_up_task
from flows.run.retention import clear_old_runs
from flows.stages.distill import attach_dataset, distill_flow
from flows.stages.export import export_flow
from flows.stages.synthesize import synthesize_flow


@flow(name="pipeline", flow_run_name="{recipe.name}")
def pipeline(recipe: Recipe, out: Path | None = None, data: str | None = None, changes: tuple[str, ...] = ()) -> Path:
    """Paint, distil, export, measure, promote, report. What is on disk from an earlier attempt is kept.

    Args:
        recipe: which teacher, which scenes, which edits, and how.
        out: the run folder; left out, `runs/NAME-FINGERPRINT`, the same for the same recipe.
        data: where the painted set goes, a folder or a URL such as s3://bucket/sofas, if not into the run folder.
        changes: keys of the recipe that are other, as `--set` has them: "training.steps=200".

    Returns:
        The path of the model file.

    Raises:
        DistilleryError: in one line, for anything that a person can mend.
    """
    recipe = start(recipe, changes)
    out = out or RunFolder.default_path(recipe)
    take_up_task(recipe, out)
    run = RunFolder.open_or_create(recipe, out)
    if data is not None:
        attach_dataset(run, data)
    name_run(f"{recipe.name}: {recipe.to_paint().count} images, {recipe.training.steps} steps, in {out}")
    before = run.last_work()
    with exclusive_gpu(recipe.teacher.device, recipe.operations.processes):
        started = time.perf_counter()
        num_painted = synthesize_flow(recipe, run.dataset)
        if num_painted:
            run.add_seconds("painting", time.perf_counter() - started)
        distill_flow(recipe, out)
        model = export_flow(out, recipe)
    verdict = promote(recipe, out)
    say(verdict.why)
    if num_painted == 0 and run.last_work() == before and run.report.exists():
        say(f"nothing was to do: {out} holds this recipe's run, whole")
        return model
    write_report(recipe, out)
    write_model_card(recipe, out)
    keep_task(recipe, out)
    _show(recipe, run)
    for path in clear_old_runs(recipe, out):
        say(f"deleted {path}, by the recipe's operations.keep_runs")
    return model


def _show(recipe: Recipe, run: RunFolder) -> None:
    """In the UI: the figures as a page, and where the report is."""
    page = f"{json.loads(run.promotion.read_text())['why']}\n"
    if run.evaluation.exists():
        page += f"\n{markdown_table(json.loads(run.evaluation.read_text()))}\n"
    show_markdown(key_of(recipe.name, "outcome"), page, f"{recipe.name}: what came of it")
    show_link(key_of(recipe.name, "report"), run.report, f"{recipe.name}: the report")
