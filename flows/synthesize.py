"""First stage: the teacher paints the recipe's scenes."""

import sys
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
    """Load a teacher, and say where it runs."""
    from synth.teacher import Teacher

    teacher = Teacher.load(settings)
    print(f"teacher {teacher.name} on {teacher.device}, {str(teacher.dtype).removeprefix('torch.')}", file=sys.stderr)
    return teacher


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
