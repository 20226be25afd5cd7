"""First stage: the teacher paints the recipe's scenes."""

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.config.recipe import Recipe
from flows.orchestration.environment import prepare_worker
from flows.orchestration.flow_run import name_run, start
from flows.orchestration.progress import (
    Bar,
    key_of,
    markdown_image,
    open_progress,
    say,
    show_link,
    show_markdown,
    show_table,
)
from flows.orchestration.ray_cluster import paint_on_ray
from flows.orchestration.retries import RETRIES, exclusive_gpu
from synth.errors import RunError
from synth.settings import TeacherSettings

if TYPE_CHECKING:
    from synth.dataset.building import DatasetBuilder
    from synth.teacher.teacher import Teacher


@lru_cache(maxsize=1)  # the stages of a run share one
def open_teacher(settings: TeacherSettings) -> "Teacher":
    """Load a teacher, without a bar for each of its small files."""
    import diffusers
    import transformers

    from synth.teacher.teacher import Teacher

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    return Teacher.load(settings)


def synthesize(recipe: Recipe, url: str | Path) -> str:
    """Paint what is missing of the recipe's data set at `url`, a folder or any URL that fsspec knows."""
    from synth.dataset.building import synthesize as paint

    return str(paint(open_teacher(recipe.teacher), recipe.to_paint(), url))


def plan(recipe: Recipe) -> str:
    """What painting the recipe's set will take on this machine: one batch is painted, timed and thrown away."""
    import io
    import time
    from datetime import timedelta

    from synth.dataset.generate import completed, paint
    from synth.dataset.prompts import Template

    teacher = open_teacher(recipe.teacher)
    settings = completed(recipe.to_paint(), teacher)
    template = Template(settings)
    scenes = [template.scene(index) for index in range(min(settings.batch_size, settings.count))]
    teacher.check_prompts([scene.prompt for scene in scenes])
    started = time.perf_counter()
    pictures = [picture for picture in paint(teacher, settings, scenes) if picture is not None]
    seconds = (time.perf_counter() - started) / len(scenes)
    size = 0
    for picture in pictures:
        encoded = io.BytesIO()
        picture.save(encoded, "PNG")
        size += len(encoded.getvalue())
    gigabytes = 1.1 * size / max(1, len(pictures)) * settings.count / 1e9  # a tenth for the gallery and the rejects
    lines = [
        f"teacher   {teacher.name} on {teacher.device}",
        f"images    {settings.count} of {settings.image_size} px, {settings.num_inference_steps} steps, guidance "
        f"{settings.guidance_scale:g}, {template.num_combinations} combinations of words",
        f"shards    {-(-settings.count // settings.shard_size)} of up to {settings.shard_size}",
        f"time      {timedelta(seconds=round(seconds * settings.count))} at {1 / seconds:.2g} images a second, "
        "rejects not counted",
        f"disk      {gigabytes:.2g} GB",
        *(f"prompt {scene.index}  {scene.prompt}" for scene in scenes[:5]),
    ]
    return "\n".join(lines)


@lru_cache(maxsize=1)  # opening it may load a CLIP model, which is too much for every shard
def _painting(recipe_json: str, url: str) -> "DatasetBuilder":
    from synth.dataset.building import DatasetBuilder

    recipe = Recipe.model_validate_json(recipe_json)
    return DatasetBuilder(open_teacher(recipe.teacher), recipe.to_paint(), url)


@task(name="plan", cache_policy=NO_CACHE, **RETRIES)
def missing_shards_task(recipe: Recipe, url: str) -> dict[int, int]:
    """The shards that are missing or short -> how many images they lack."""
    _painting.cache_clear()  # what a person vetoed since counts
    return _painting(recipe.model_dump_json(), url).unfinished()


@task(name="paint", task_run_name="shard {number:05d}", cache_policy=NO_CACHE, **RETRIES)
def paint_task(recipe: Recipe, url: str, number: int, done: int = 0, artifact: UUID | None = None) -> None:
    """One shard, whole. `done` images of the set are there already."""
    prepare_worker()  # a worker of Ray's begins here
    bar: Any
    with Bar("painting", recipe.to_paint().count, "image", done, artifact, leave=False) as bar:
        _painting(recipe.model_dump_json(), url).paint_shard(number, bar)


@task(name="finish set", cache_policy=NO_CACHE, **RETRIES)
def finish_task(recipe: Recipe, url: str, images_per_second: float) -> None:
    """Near duplicates, the card, the gallery."""
    _painting(recipe.model_dump_json(), url).finish(images_per_second)


@flow(name="synthesize", flow_run_name="{recipe.name}")
def synthesize_flow(recipe: Recipe, url: str, part: int = 0, parts: int = 1, changes: tuple[str, ...] = ()) -> int:
    """Words -> a data set folder. Shard by shard; what is there already is kept.

    Args:
        recipe: what to paint, and who paints it.
        url: where the set goes: a folder, or a URL such as s3://bucket/sofas.
        part: which share of the shards to paint, from 0 on, where several workers share the work.
        parts: how many shares there are. Shards need nothing of each other, so that shares can be painted at once, on
            any machines; a last run without shares paints what is missing, replaces near duplicates across shards and
            writes the card.
        changes: keys of the recipe that are other, such as "scenes.count=500".

    Returns:
        How many images were painted now.

    Raises:
        RunError: if there is no such part.
    """
    if not 0 <= part < parts:
        raise RunError(f"part {part} of {parts}: parts are counted from 0 to {parts - 1}")
    recipe = start(recipe, changes)
    name_run(f"paint {recipe.name} into {url}")
    limit = recipe.operations.timeout_hours * 3600
    with exclusive_gpu(recipe.teacher.device):
        todo = {number: lack for number, lack in missing_shards_task(recipe, url).items() if number % parts == part}
        done = recipe.to_paint().count - sum(todo.values())
        num_new = sum(todo.values())
        share = f"all {done} images" if parts == 1 else f"all images of part {part} of {parts}"
        if not todo:
            say(f"{share} are in {url}: nothing to paint")
        else:
            teacher = open_teacher(recipe.teacher)
            shards = "1 shard" if len(todo) == 1 else f"{len(todo)} shards"
            say(f"painting {num_new} images in {shards}, with {teacher.name} on {teacher.device}")
        started = time.perf_counter()
        _paint(recipe, url, todo, done)
        rate = num_new / (time.perf_counter() - started) if todo else 0.0
        if parts == 1:
            finish_task.with_options(timeout_seconds=limit)(recipe, url, rate)
    if todo and parts == 1:
        _show(recipe, url)
    return num_new


def _paint(recipe: Recipe, url: str, todo: Mapping[int, int], done: int) -> None:
    """The shards of `todo`, here or on Ray. `done` images of the set are there already."""
    if not todo:
        return
    artifact = open_progress("images", recipe.name)
    task = paint_task.with_options(timeout_seconds=recipe.operations.timeout_hours * 3600)
    if recipe.operations.runner == "ray":
        with Bar("painting", recipe.to_paint().count, "image", done, artifact) as bar:
            for lacking in paint_on_ray(task, {"recipe": recipe, "url": url}, todo, recipe.operations):
                bar.update(lacking)
        return
    for number, lacking in todo.items():
        task(recipe, url, number, done, artifact)
        done += lacking


def _show(recipe: Recipe, url: str) -> None:
    """In the UI: the set's card as a page: what varies, what was rejected, a grid of samples."""
    from synth.dataset.card import count_rejects
    from synth.dataset.store import Store

    store = Store(url)
    card = store.read("README.md").decode().rpartition("\n---\n")[2]
    grid = "![a sample](grid.png)"
    if grid in card:
        card = card.replace(grid, markdown_image(store.read("grid.png"), "a sample"))
    show_markdown(key_of(recipe.name, "data"), card, f"{recipe.name}: the painted set")
    rejects = [{"reason": reason, "images": count} for reason, count in count_rejects(store).most_common()]
    if rejects:
        show_table(key_of(recipe.name, "rejects"), rejects, f"{recipe.name}: what was painted and not kept")
    show_link(key_of(recipe.name, "data-set"), url, f"{recipe.name}: where the set lies")
