"""First stage: the teacher paints the recipe's scenes."""

import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.config.naming import digest
from flows.config.schema import Recipe
from flows.orchestration.artifacts import artifact_key, markdown_image, show_link, show_markdown, show_table
from flows.orchestration.environment import prepare_worker
from flows.orchestration.flow_run import name_run, resolve
from flows.orchestration.gpu_lock import exclusive_gpu
from flows.orchestration.progress import Bar, in_a_run, open_progress
from flows.orchestration.ray_cluster import paint_on_ray
from flows.orchestration.retries import RETRIES
from flows.shared_teacher import open_teacher
from flows.stages.frame import OpenRun, stage
from synth.errors import RunError

if TYPE_CHECKING:
    from synth.dataset.building import DatasetBuilder

logger = logging.getLogger(__name__)


@flow(name="synthesize", flow_run_name="{recipe.name}")
def synthesize_flow(
    recipe: Recipe, url: str, rank: int = 0, world_size: int = 1, overrides: tuple[str, ...] = ()
) -> int:
    """Words -> a dataset folder. Shard by shard; what is there already is kept.

    Args:
        recipe: what to paint, and who paints it.
        url: where the dataset goes: a folder, or a URL such as s3://bucket/sofas.
        rank: which share of the shards to paint, from 0 on, where several workers share the work.
        world_size: how many shares there are. Shards need nothing of each other, so that shares can be painted at
            once, on any machines; a last run with one share paints what is missing, replaces near duplicates across
            shards and writes the card.
        overrides: keys of the recipe that differ, e.g. "scenes.count=500".

    Returns:
        How many images were painted now.

    Raises:
        RunError: if there is no such share.
    """
    if not 0 <= rank < world_size:
        raise RunError(f"rank {rank} of {world_size}: ranks are counted from 0 to {world_size - 1}")
    recipe = resolve(recipe, overrides)
    name_run(f"paint {recipe.name} into {url}")
    with exclusive_gpu(recipe.teacher.device):
        return paint_dataset(recipe, url, rank, world_size)


@stage("painting")
def synthesize(run: OpenRun) -> None:
    """Paint what is missing of the run's dataset."""
    if paint_dataset(run.recipe, run.folder.dataset):
        run.folder.mark_done("synthesize", digest(run.recipe.to_paint().model_dump(mode="json")))


def paint_dataset(recipe: Recipe, url: str, rank: int = 0, world_size: int = 1) -> int:
    """Paint one share of what is missing; with a single share, also finish the dataset. Within a flow.

    Returns:
        How many images were painted now.
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
        share = f"all {num_done} images" if world_size == 1 else f"all images of rank {rank} of {world_size}"
        logger.info(f"{share} are in {url}: nothing to paint")

    started = time.perf_counter()
    _paint(recipe, url, missing, num_done)
    images_per_second = num_new / (time.perf_counter() - started) if missing else 0.0
    if world_size == 1:
        finish_task.with_options(timeout_seconds=seconds_limit)(recipe, url, images_per_second)
        if missing and in_a_run():
            _show(recipe, url)
    return num_new


def _paint(recipe: Recipe, url: str, missing: Mapping[int, int], num_done: int) -> None:
    """Paint the shards of `missing`, here or on Ray. `num_done` images of the dataset are there already."""
    if not missing:
        return
    artifact = open_progress("images", recipe.name)
    paint = paint_task.with_options(timeout_seconds=recipe.operations.timeout_hours * 3600)
    if recipe.operations.runner == "ray":
        with Bar("painting", recipe.to_paint().count, "image", num_done, artifact) as bar:
            for lacking in paint_on_ray(paint, {"recipe": recipe, "url": url}, missing, recipe.operations):
                bar.update(lacking)
        return
    for number, lacking in missing.items():
        paint(recipe, url, number, num_done, artifact)
        num_done += lacking


@task(name="missing shards", cache_policy=NO_CACHE, **RETRIES)
def missing_shards_task(recipe: Recipe, url: str) -> dict[int, int]:
    """The shards that are missing or short: number -> how many images they lack."""
    _builder.cache_clear()  # an image that a person vetoed since is missing
    return _builder(recipe.model_dump_json(), url).missing_shards()


@task(name="paint", task_run_name="shard {number:05d}", cache_policy=NO_CACHE, **RETRIES)
def paint_task(recipe: Recipe, url: str, number: int, num_done: int = 0, artifact: UUID | None = None) -> None:
    """One shard, whole. `num_done` images of the dataset are there already."""
    prepare_worker()  # a process of Ray's begins here
    bar: Any
    with Bar("painting", recipe.to_paint().count, "image", num_done, artifact, leave=False) as bar:
        _builder(recipe.model_dump_json(), url).paint_shard(number, bar)


@task(name="finish dataset", cache_policy=NO_CACHE, **RETRIES)
def finish_task(recipe: Recipe, url: str, images_per_second: float) -> None:
    """Near duplicates, the card, the gallery."""
    _builder(recipe.model_dump_json(), url).finish(images_per_second)


@lru_cache(maxsize=1)  # opening it may load a CLIP model, which is too much for every shard
def _builder(recipe_json: str, url: str) -> "DatasetBuilder":
    from synth.dataset.building import DatasetBuilder

    recipe = Recipe.model_validate_json(recipe_json)
    return DatasetBuilder(open_teacher(recipe.teacher), recipe.to_paint(), url)


def _show(recipe: Recipe, url: str) -> None:
    """In the UI: the dataset's card as a page, a table of the rejects, and where the dataset lies."""
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
        show_table(artifact_key(recipe.name, "rejects"), rejects, f"{recipe.name}: what was painted and not kept")
    show_link(artifact_key(recipe.name, "data-set"), url, f"{recipe.name}: where the dataset lies")
