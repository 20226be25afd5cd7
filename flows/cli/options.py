"""Options that several verbs share."""

import os
from collections.abc import Callable, Collection
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from synth.files import check_target

Verb = TypeVar("Verb", bound=Callable[..., Any])
Settings = TypeVar("Settings")


class _Target(click.Path):
    """A folder or file to write. What cannot be written is refused before any work."""

    def __init__(self, is_folder: bool):
        super().__init__(path_type=Path)
        self.name = "directory" if is_folder else "file"
        self._is_folder = is_folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; raises FileError."""
        if not str(value):
            self.fail("the name is empty", param, ctx)
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        check_target(path, self._is_folder)
        return path


class _Place(click.ParamType[str]):
    """A folder to write, or a URL that fsspec knows."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it is; raises FileError."""
        if "://" not in value:
            OUT_FOLDER.convert(value, param, ctx)
        return str(value)


FOLDER = click.Path(file_okay=False, path_type=Path)
OUT_FOLDER = _Target(is_folder=True)
OUT_FILE = _Target(is_folder=False)
OUT_PLACE = _Place()
TEACHER_OPTIONS = ("id", "revision", "dtype", "device", "allow_cpu")

trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Let the recipe's file run code and reach other machines, where it asks to.",
)
provider_option = click.option(
    "--provider",
    type=click.Choice(["cuda", "coreml", "directml", "cpu"]),
    help="Run the model on this device. (default: the best that ONNX Runtime has here)",
)
study_out_option = click.option(
    "--out",
    type=OUT_FOLDER,
    required=True,
    help="Write the results into this folder; a study that was killed in it resumes.",
)


num_images_option = click.option("--num-images", type=click.IntRange(1), help="Short for --set scenes.count=N.")


def recipe_options(verb: Verb) -> Verb:
    """Add the argument RECIPE and the options that change the recipe."""
    for decorate in (
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any key of the recipe."),
        trust_option,
        click.option("--teacher", help="Short for --set teacher.id=...: miniature, a folder or a Hub id."),
        click.argument("recipe"),
    ):
        verb = decorate(verb)
    return verb


def runner_options(verb: Verb) -> Verb:
    """Add the options that say where the shards are painted."""
    for decorate in (
        click.option("--ray-address", metavar="URL", help="Use this Ray cluster, such as ray://host:10001."),
        click.option(
            "--runner", type=click.Choice(["threads", "ray"]), help="Paint the shards in this process, or on Ray."
        ),
    ):
        verb = decorate(verb)
    return verb


def teacher_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Add what a recipe sets under [teacher], for a verb without one. The verb gets it as `teacher`."""

    @wraps(verb)
    def with_teacher(**given: Any) -> None:
        from synth.settings import TeacherSettings

        if given["id"] == "miniature" or os.path.isdir(given["id"]):
            refuse_without_effect(("revision",), "on a teacher that is here: it chooses among those of a Hub id")
        settings = TeacherSettings(**{key: given.pop(key) for key in TEACHER_OPTIONS})
        verb(teacher=settings, **given)

    decorated: Callable[..., None] = with_teacher
    for decorate in (
        click.option("--allow-cpu", is_flag=True, help="Run a full-size teacher on a CPU all the same; takes hours."),
        click.option(
            "--device",
            default="auto",
            help="Run the teacher on cpu, cuda or cuda:1. (default: the GPU, if there is one)",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            default="auto",
            show_default=True,
            help="Load the teacher's weights as this type; auto is bfloat16 for a full-size teacher on a GPU.",
        ),
        click.option("--revision", help="Take this branch, tag or commit of a Hub id."),
        click.option(
            "--teacher",
            "id",
            default="miniature",
            show_default=True,
            help="Use this teacher: miniature, a folder or a Hub id.",
        ),
    ):
        decorated = decorate(decorated)
    return decorated


def refuse_without_effect(names: Collection[str], why: str) -> None:
    """Refuse those of the current verb's options and arguments that were typed, but would be ignored.

    Args:
        names: of the verb's parameters.
        why: ends the message, "--clip has no effect without --images".

    Raises:
        click.UsageError: with the first one.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        is_typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE and context.params[name] != ()
        if name in names and is_typed:
            label = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
            raise click.UsageError(f"{label} has no effect {why}")


def settings_of_options(settings: Callable[..., Settings], values: dict[str, Any]) -> Settings:
    """Settings from the options of the current verb.

    Args:
        settings: the pydantic model.
        values: its fields by name; an option has the name of its field.

    Raises:
        click.UsageError: for a value out of bounds, with the name of its option.
    """
    from pydantic import ValidationError

    try:
        return settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        fields = [str(name) for name in first["loc"][:1]]
        parameters = click.get_current_context().command.params
        options = [parameter.opts[0] for parameter in parameters if parameter.name in fields]
        message = first["msg"].removeprefix("Value error, ")
        raise click.UsageError(": ".join([*(options or fields), message])) from None
