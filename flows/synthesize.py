"""First stage: the teacher paints the recipe's scenes."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.recipe import Recipe
from flows.run_folder import RunFolder
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


def synthesize(recipe: Recipe, out: Path) -> Path:
    """Paint what is missing of the recipe's data set in the run folder `out`; returns the data set's folder."""
    from synth.dataset import synthesize as paint

    run = RunFolder.claim(recipe, out)
    return paint(open_teacher(recipe.teacher), recipe.scenes, run.dataset)


@task(name="paint", cache_policy=NO_CACHE)  # the shards on disk are the cache
def paint_task(recipe: Recipe, out: Path) -> Path:
    """All shards that are not there yet."""
    return synthesize(recipe, out)


@flow(name="synthesize", flow_run_name="{recipe.name}")
def synthesize_flow(recipe: Recipe, out: Path) -> Path:
    """Words -> a data set folder."""
    return paint_task(recipe, out)
