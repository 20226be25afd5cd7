"""First stage: the teacher paints the dataset of the recipe's scenes."""

import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.config.naming import digest
from flows.config.parameter import RecipeParameter
from flows.config.schema import Recipe
from flows.orchestration.artifacts import artifact_key, markdown_image, show_link, show_markdown, show_table
from flows.orchestration.environment import prepare_worker
from flows.orchestration.flow_run import name_run, resolve
from flows.orchestration.gpu_lock import exclusive_gpu
from flows.orchestration.progress import Bar, in_a_run, open_progress
from flows.orchestration.ray_cluster import paint_on_ray
from flows.orchestration.retries import RETRIES
from flows.planning.preflight import check_cards
from flows.shared_teacher import open_teacher, release_teacher
from flows.stages.frame import OpenRun, stage
from flows.stages.painters import paint_together
from synth.errors import RunError

if TYPE_CHECKING:
    from synth.dataset.building import DatasetBuilder

logger = logging.getLogger(__name__)


@flow(name="synthesize", flow_run_name="{recipe.name}")
def synthesize_flow(
    recipe: RecipeParameter, url: str, rank: int = 0, world_size: int = 1, overrides: tuple[str, ...] = ()
) -> int:
    """Paint a dataset shard by shard, keeping the shards that exist.

    Args:
        recipe: the scenes, and the teacher that paints them.
        url: the dataset's folder or URL, e.g. s3://bucket/sofas.
        rank: which share of the shards to paint, counted from 0, if several workers divide the work.
        world_size: the number of shares. They are independent of each other and may be painted in parallel, on any
            machines. A last run with one share paints what is missing, replaces near duplicates across shards and
            writes the card.
        overrides: keys of the recipe that differ, e.g. "scenes.count=500".

    Returns:
        The number of images painted in this run.

    Raises:
        RunError: if rank is not below world_size, or there are more processes than cards.
    """
    if not 0 <= rank < world_size:
        raise RunError(
            f"rank {rank} is not one of the {world_size} ranks, which are counted from 0 to {world_size - 1}"
        )
    recipe = resolve(recipe, overrides)
    name_run(f"paint {recipe.name} into {url}")
    if recipe.operations.runner == "threads":
        check_cards(recipe)
    with exclusive_gpu(recipe.teacher.device, recipe.operations.processes):
        return paint_dataset(recipe, url, rank, world_size)


@stage("painting")
def synthesize(run: OpenRun) -> None:
    """Paint the missing shards of the run's dataset."""
    if paint_dataset(run.recipe, run.folder.dataset):
        run.folder.mark_done("synthesize", digest(run.recipe.to_paint().model_dump(mode="json")))
        logger.info(f"to look at: {run.folder.dataset}/grid.png, the first painted images")


def paint_dataset(recipe: Recipe, url: str, rank: int = 0, world_size: int = 1) -> int:
    """Paint one share of the missing shards. If it is the only share, also finish the dataset.

    Call this within a flow or a stage.

    Args:
        recipe: resolved.
        url: the dataset's folder or URL.
        rank: the share, counted from 0.
        world_size: the number of shares.

    Returns:
        The number of images painted now.
    """
    seconds_limit = recipe.operations.timeout_hours * 3600
    missing = {
        number: lacking for number, lacking in missing_shards_task(recipe, url).items() if number % world_size == rank
    }
    num_new = sum(missing.values())
    num_done = recipe.to_paint().count - num_new
    if missing:
        teacher = open_teacher(recipe.teacher)
        shards = "1 shard" if len(missing) == 1 else f"{len(missing)} shards"
        logger.info(f"painting {num_new} images in {shards}, with {teacher.name} on {teacher.device}")
    else:
        share = f"all {num_done} images" if world_size == 1 else f"all images of rank {rank} (of {world_size})"
        logger.info(f"{share} are in {url}: nothing to paint")

    started = time.perf_counter()
    _paint(recipe, url, missing, num_done)
    images_per_second = num_new / (time.perf_counter() - started) if missing else 0.0
    if world_size == 1:
        finish_task.with_options(timeout_seconds=seconds_limit)(recipe, url, images_per_second)
        if missing and in_a_run():
            _show(recipe, url)
    _builder.cache_clear()  # with its filters' networks, for what comes next on this card
    return num_new


def _paint(recipe: Recipe, url: str, missing: Mapping[int, int], num_done: int) -> None:
    """Paint missing shards: here, in several processes or on Ray.

    Args:
        recipe: resolved.
        url: the dataset's folder or URL.
        missing: number of a shard -> how many images it lacks.
        num_done: images that the dataset holds already, for the progress bar.
    """
    if not missing:
        return
    artifact = open_progress("images", recipe.name)
    seconds_limit = recipe.operations.timeout_hours * 3600  # of a shard
    paint = paint_task.with_options(timeout_seconds=seconds_limit)
    if recipe.operations.runner == "ray":
        with Bar("painting", recipe.to_paint().count, "image", num_done, artifact) as bar:
            for lacking in paint_on_ray(paint, {"recipe": recipe, "url": url}, missing, recipe.operations):
                bar.update(lacking)
        return
    if min(recipe.operations.processes, len(missing)) > 1:
        check_cards(recipe)  # a run whose student is trained has no preflight, and may have images to paint again
        paint_together_task(recipe, url, list(missing), artifact)  # which holds each shard to the limit itself
        return
    for number, lacking in missing.items():
        paint(recipe, url, number, num_done, artifact)
        num_done += lacking


@task(name="missing shards", cache_policy=NO_CACHE, **RETRIES)
def missing_shards_task(recipe: Recipe, url: str) -> dict[int, int]:
    """List the shards that are missing or short: number -> how many images it lacks."""
    _builder.cache_clear()  # since it was opened, a user may have excluded images
    return _builder(recipe.model_dump_json(), url).missing_shards()


@task(name="paint", task_run_name="shard {number:05d}", cache_policy=NO_CACHE, **RETRIES)
def paint_task(recipe: Recipe, url: str, number: int, num_done: int = 0, artifact: UUID | None = None) -> None:
    """Paint one whole shard. The dataset holds `num_done` images already."""
    prepare_worker()  # a Ray worker's process starts here
    bar: Any
    with Bar("painting", recipe.to_paint().count, "image", num_done, artifact, leave=False) as bar:
        _builder(recipe.model_dump_json(), url).paint_shard(number, bar)


@task(name="paint together", cache_policy=NO_CACHE, **RETRIES)
def paint_together_task(recipe: Recipe, url: str, numbers: list[int], artifact: UUID | None) -> None:
    """Paint those of some shards that are missing still, in several processes."""
    # An attempt before this one, which an error of the storage ended, may have finished most of them.
    asked = set(numbers)
    missing = {
        number: lacking
        for number, lacking in _builder(recipe.model_dump_json(), url).missing_shards().items()
        if number in asked
    }
    _builder.cache_clear()
    release_teacher()  # the processes need the whole card
    if not missing:
        return
    num_done = recipe.to_paint().count - sum(missing.values())
    num_processes = min(recipe.operations.processes, len(missing))
    logger.info(f"painting in {num_processes} processes")
    with Bar("painting", recipe.to_paint().count, "image", num_done, artifact, leave=False) as bar:
        paint_together(recipe, url, list(missing), num_processes, bar)


@task(name="finish dataset", cache_policy=NO_CACHE, **RETRIES)
def finish_task(recipe: Recipe, url: str, images_per_second: float) -> None:
    """Replace near duplicates, and write the card and the gallery."""
    _builder(recipe.model_dump_json(), url).finish(images_per_second)


@lru_cache(maxsize=1)  # opening it may load a CLIP model, which takes too long for every shard
def _builder(recipe_json: str, url: str) -> "DatasetBuilder":
    from synth.dataset.building import DatasetBuilder

    recipe = Recipe.model_validate_json(recipe_json)
    return DatasetBuilder(open_teacher(recipe.teacher), recipe.to_paint(), url)


def _show(recipe: Recipe, url: str) -> None:
    """Show in the UI the dataset's card, a table of the rejects, and where the dataset is."""
    from synth.dataset.card import count_rejects
    from synth.dataset.store import Store

    store = Store(url)
    card = store.read("README.md").decode().partition("\n---\n")[2]
    grid = "![a sample](grid.png)"
    if grid in card:
        card = card.replace(grid, markdown_image(store.read("grid.png"), "a sample"))
    show_markdown(artifact_key(recipe.name, "data"), card, f"{recipe.name}: the painted dataset")
    rejects = [{"reason": reason, "images": count} for reason, count in count_rejects(store).most_common()]
    if rejects:
        show_table(artifact_key(recipe.name, "rejects"), rejects, f"{recipe.name}: rejected images")
    show_link(artifact_key(recipe.name, "data-set"), url, f"{recipe.name}: the dataset's location")
