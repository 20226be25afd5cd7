"""First stage: the teacher paints the recipe's scenes."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.recipe import Recipe
from synth.settings import TeacherSettings

if TYPE_CHECKING:
    from synth.teacher import Teacher


@lru_cache(maxsize=1)  # the stages of a run share one
def open_teacher(settings: TeacherSettings) -> "Teacher":
    """Load a teacher, without a bar for each of its small files."""
    import diffusers
    import transformers

    from synth.teacher import Teacher

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    return Teacher.load(settings)


def synthesize(recipe: Recipe, url: str | Path) -> str:
    """Paint what is missing of the recipe's data set at `url`, a folder or any URL that fsspec knows."""
    from synth.dataset import synthesize as paint

    return str(paint(open_teacher(recipe.teacher), recipe.scenes, url))


def plan(recipe: Recipe) -> str:
    """What painting the recipe's set will take on this machine: one batch is painted, timed and thrown away."""
    import io
    import time
    from datetime import timedelta

    from synth.generate import completed, paint
    from synth.prompts import Template

    teacher = open_teacher(recipe.teacher)
    settings = completed(recipe.scenes, teacher)
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


@task(name="paint", cache_policy=NO_CACHE)  # the shards on disk are the cache
def paint_task(recipe: Recipe, url: str) -> str:
    """All shards that are not there yet."""
    return synthesize(recipe, url)


@flow(name="synthesize", flow_run_name="{recipe.name}")
def synthesize_flow(recipe: Recipe, url: str) -> str:
    """Words -> a data set folder."""
    return paint_task(recipe, url)
