"""Options that several verbs share."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(file_okay=False, path_type=Path)
trust_option = click.option(
    "--trust", is_flag=True, help="Let the recipe's file run code and reach outside, where it asks for it."
)
_TEACHER_OPTIONS = ("id", "revision", "dtype", "device", "allow_cpu")


def teacher_options(verb: Callable[..., None]) -> Callable[..., None]:
    """For a verb without a recipe, what a recipe says under [teacher]: it is handed on as `teacher`."""

    @wraps(verb)
    def with_teacher(**given: Any) -> None:
        from synth.settings import TeacherSettings

        settings = TeacherSettings(**{key: given.pop(key) for key in _TEACHER_OPTIONS})
        verb(teacher=settings, **given)

    decorated: Callable[..., None] = with_teacher
    for decorate in (
        click.option("--allow-cpu", is_flag=True, help="Run a full-size teacher on a CPU all the same: hours."),
        click.option("--device", default="auto", help="cpu, cuda, cuda:1; the GPU, if there is one, unless said."),
        click.option(
            "--dtype",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            default="auto",
            help="Of its weights; auto is bfloat16 for a full-size one on a GPU.",
        ),
        click.option("--revision", help="A branch, tag or commit of a Hub id."),
        click.option("--teacher", "id", default="miniature", show_default=True, help="A folder or a Hub id."),
    ):
        decorated = decorate(decorated)
    return decorated
