"""`distillery edit`: a zero-shot edit, by text alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli.options import OUT_FOLDER, refuse_without_effect, settings_of_options, teacher_options
from flows.cli.results import print_outcome
from flows.orchestration.environment import prepare

if TYPE_CHECKING:
    from synth.settings import TeacherSettings


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--prompt", required=True, help="Say what the edited image shows.")
@click.option("--source", default="", help="Say what the image shows now. (default: the null text)")
@click.option(
    "--method",
    type=click.Choice(["dds", "sds", "regularized-sds"]),
    default="dds",
    show_default=True,
    help="Use this score.",
)
@click.option(
    "--optimizer", type=click.Choice(["sgd", "adam"]), default="sgd", show_default=True, help="Use this optimizer."
)
@click.option(
    "--iterations",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Take this many steps; 400 for changes of structure.",
)
@click.option(
    "--preset",
    type=click.Choice(["teacher", "paper"]),
    default="teacher",
    show_default=True,
    help="Start from the teacher's own settings, or from the published ones.",
)
@click.option("--learning-rate", type=float, help="Override the preset's learning rate; 2 is the published one.")
@click.option(
    "--lambda-id",
    type=click.FloatRange(0),
    help="Weight the L2 term of regularized-sds. (default: 0.3)",
)
@click.option(
    "--guidance-scale",
    type=click.FloatRange(1),
    help="Override the preset's guidance scale omega; 7.5 is the published one.",
)
@click.option(
    "--firm-threshold",
    type=click.FloatRange(0),
    help="Undo small changes; 2 spares backgrounds, 0 undoes nothing. (default: 0)",
)
@click.option("--seed", default=0, show_default=True, help="Seed the noise.")
@click.option("--series", is_flag=True, help="Write a GIF from the input to the result, too.")
@click.option("--out", type=OUT_FOLDER, default=Path("edited"), show_default=True, help="Write into this folder.")
@teacher_options
def edit(
    images: tuple[Path, ...],
    prompt: str,
    source: str,
    preset: str,
    series: bool,
    teacher: "TeacherSettings",
    out: Path,
    **settings: Any,
) -> None:
    """Edit IMAGES, files or folders of them, by text alone: zero-shot DDS, no training.

    What is there already is not made again, and no other file is overwritten. An image that cannot be edited does not
    stop the others: it gets an error line at the end, and the exit code is 2.

    \b
    distillery edit room.png --source "a grey sofa" --prompt "a red leather sofa" --out edited
    distillery edit street.jpg --prompt "a street in the snow" --teacher some/hub-id --series
    """
    from distill.settings import PUBLISHED_EDIT, EditSettings

    if settings["method"] != "regularized-sds":
        refuse_without_effect(("lambda_id",), "without --method regularized-sds")
    given = {key: value for key, value in settings.items() if value is not None}
    start = PUBLISHED_EDIT if preset == "paper" else {}
    edit_settings = settings_of_options(EditSettings, start | given)
    prepare()
    from flows.evaluation.zero_shot import edit_files
    from flows.shared_teacher import open_teacher

    print_outcome(edit_files(open_teacher(teacher), images, prompt, source, edit_settings, out, series))
