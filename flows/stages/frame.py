"""What happens before, between and after the stages of a run, in one place.

`open_run` enters a run:

    resolve    apply the overrides to the recipe; refuse a flow run that keeps crashing
    claim      become the only writer in the run folder, or say who is
    download   fetch what another machine left of the run (`operations.remote_dir`)
    open       create the run folder, or open the one of the same run
    name       name the flow run
    lock       lock the GPU

`stage` wraps each stage of it: run, time, upload what it made, show the outcome in the UI.

Outside a flow run both work without Prefect: nothing is named, retried or shown.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from flows.config.schema import Recipe
from flows.config.trust import is_trusted
from flows.orchestration.flow_run import name_run, resolve
from flows.orchestration.gpu_lock import exclusive_gpu
from flows.orchestration.progress import in_a_run
from flows.orchestration.retries import RETRIES
from flows.reports.pages import write_pages
from flows.run.folder import RunFolder
from flows.run.lock import exclusive_run
from flows.run.uploads import download, upload
from flows.training.student import attach_dataset

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class OpenRun:
    """A run whose folder is open and whose GPU is held."""

    recipe: Recipe
    folder: RunFolder

    @property
    def seconds_limit(self) -> float:
        """How long one task may take, in seconds."""
        return self.recipe.operations.timeout_hours * 3600


@contextmanager
def open_run(
    title: str,
    recipe: Recipe,
    out: Path | None,
    overrides: Sequence[str] = (),
    data: str | None = None,
    adopt: bool = True,
) -> Iterator[OpenRun]:
    """Enter a run: resolve, download, open, name, lock.

    Args:
        title: the flow run's name, e.g. "train {name} in {out}".
        recipe: without the overrides.
        out: the run folder (default: runs/NAME-FINGERPRINT, the same for the same recipe).
        overrides: keys of the recipe that differ, e.g. "training.steps=200".
        data: the dataset's folder or URL (default: the one that the run names, or a folder in it).
        adopt: write the recipe into the folder at once. Otherwise a stage does so once the recipe has proved to work.

    Yields:
        The open run, whose GPU is locked until the end of the block.

    Raises:
        RecipeError: for a wrong override.
        RunError: if the folder holds another recipe's run, another command is at work on it, or the flow run keeps
            crashing.
        TrainingError: if the run was trained on another dataset than `data`.
    """
    recipe = resolve(recipe, overrides)
    out = out or RunFolder.default_path(recipe)
    RunFolder.check(recipe, out)  # before anything is written into a folder that is not the run's
    with exclusive_run(recipe, out):
        run_task(download_task, recipe, out)
        folder = RunFolder.open_or_create(recipe, out) if adopt else RunFolder.check(recipe, out)
        # A folder from elsewhere may name any storage as its dataset: follow it only with the user's consent.
        if data is not None:
            attach_dataset(folder, data)
        elif not is_trusted():
            folder.check_dataset_is_local()
        name_run(title.format(name=recipe.name, out=out))
        # The GPU comes last, so that nobody waits for a run that is refused.
        with exclusive_gpu(recipe.teacher.device, _num_gpus(recipe)):
            yield OpenRun(recipe, folder)


def _num_gpus(recipe: Recipe) -> int | None:
    """How many cards the run takes; None for all, since nobody but accelerate knows how many its own file takes."""
    operations = recipe.operations
    return operations.processes if operations.accelerate_config is None else None


def stage(
    name: str, show: Callable[[OpenRun], None] | None = None
) -> Callable[[Callable[Concatenate[OpenRun, P], R]], Callable[Concatenate[OpenRun, P], R]]:
    """Make a function a stage of an open run.

    If the function made something, the stage records its time, uploads the run folder and shows the outcome.

    Args:
        name: of the stage in `timings.json`.
        show: shows the outcome in the UI, as artifacts.
    """

    def decorate(work: Callable[Concatenate[OpenRun, P], R]) -> Callable[Concatenate[OpenRun, P], R]:
        @wraps(work)
        def framed(run: OpenRun, /, *args: P.args, **kwargs: P.kwargs) -> R:
            before, started = run.folder.last_work(), time.perf_counter()
            result = work(run, *args, **kwargs)
            if run.folder.last_work() != before:
                run.folder.add_seconds(name, time.perf_counter() - started)
                run_task(upload_task, run.recipe, run.folder.path)
                if show is not None and in_a_run():
                    show(run)
            return result

        return cast(Callable[Concatenate[OpenRun, P], R], framed)

    return decorate


def report(run: OpenRun) -> bool:
    """Last stage: write the run's report and model card, and upload them; returns False if they are up to date."""
    if not write_pages(run.recipe, run.folder):
        return False
    run_task(upload_task, run.recipe, run.folder.path)
    return True


def run_task(work: "Task[P, R]", *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a task: in a flow run as a task run, with retries; elsewhere as a plain call."""
    if in_a_run():
        return work(*args, **kwargs)
    plain: Any = work.fn  # whose type Prefect loses
    result: R = plain(*args, **kwargs)
    return result


@task(name="download", cache_policy=NO_CACHE, **RETRIES)
def download_task(recipe: Recipe, out: Path) -> None:
    """Download what another machine left of the run."""
    download(recipe, out)


@task(name="upload", cache_policy=NO_CACHE, **RETRIES)
def upload_task(recipe: Recipe, out: Path) -> None:
    """Upload the run folder, if the recipe names a remote folder."""
    upload(recipe, out)
