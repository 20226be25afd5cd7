"""Second stage: train a student on all edits of the recipe."""

import os
from contextlib import ExitStack
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.config.parameter import RecipeParameter
from flows.config.schema import Recipe
from flows.orchestration.artifacts import artifact_key, markdown_image, show_markdown
from flows.orchestration.retries import RETRIES
from flows.planning.preflight import preflight, require
from flows.run.folder import RunFolder
from flows.run.lock import exclusive_folder
from flows.shared_teacher import release_teacher
from flows.stages.frame import OpenRun, open_run, stage
from flows.training.launcher import distill_together
from flows.training.student import attach_dataset, join_processes, train_student
from synth.markdown import escape


@flow(name="distill", flow_run_name="{recipe.name}")
def distill_flow(
    recipe: RecipeParameter, out: Path, data: str | None = None, overrides: tuple[str, ...] = ()
) -> Path:
    """Train a student on a dataset, resuming from the last checkpoint if there is one.

    Args:
        recipe: the edits, and how to train.
        out: the run folder.
        data: the dataset's folder or URL (default: the one that the run names, or a folder in it).
        overrides: keys of the recipe that differ, e.g. "training.steps=200".

    Returns:
        The student's folder.
    """
    with open_run("train {name} in {out}", recipe, out, overrides, data) as run:
        require(preflight(run.recipe, run.folder.path, exports=False))
        distill(run)
    return run.folder.student


def _show(run: OpenRun) -> None:
    """Show the last sample grid in the UI."""
    samples = run.folder.sample_grids()
    if samples:
        name, caption = run.recipe.name, "; ".join(["input", *run.recipe.edits])
        page = f"Columns: {escape(caption)}.\n\n{markdown_image(samples[-1].read_bytes(), caption)}"
        show_markdown(artifact_key(name, "samples"), page, f"{name}: images of the dataset, edited")


@stage("training", _show)
def distill(run: OpenRun) -> None:
    """Train the run's student to its last step."""
    train_task.with_options(timeout_seconds=run.seconds_limit)(run.recipe, run.folder.path)


@task(name="train", cache_policy=NO_CACHE, **RETRIES)  # the checkpoints are the cache
def train_task(recipe: Recipe, out: Path) -> None:
    """Train in this process, or in as many as the recipe's operations ask for."""
    run = RunFolder(out)
    if recipe.operations.launches_training:
        release_teacher()  # the processes need the whole card
        distill_together(recipe, run)
    else:
        train_student(recipe, run)


def is_launched_rank() -> bool:
    """Whether `accelerate launch` or torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def distill_in_rank(recipe: Recipe, out: Path, data: str) -> Path:
    """Train as one of several processes that `accelerate launch` started, without a flow or a GPU lock.

    The main process opens the run folder and holds it for all. The others wait for it, and only read the folder.

    Args:
        recipe: resolved.
        out: the run folder.
        data: the dataset's folder or URL.

    Returns:
        The student's folder.
    """
    processes = join_processes(recipe)
    with ExitStack() as until_the_end:
        with processes.main_process_first():
            if processes.is_main_process:
                until_the_end.enter_context(exclusive_folder(RunFolder.check(recipe, out).path))
                attach_dataset(RunFolder.open_or_create(recipe, out), data)
        return train_student(recipe, RunFolder(out))
