"""`distillery init`: a new recipe."""

import sys
from pathlib import Path

import click

from flows.cli.options import OUT_FILE, refuse_without_effect
from flows.cli.results import print_line


@click.command()
@click.argument("name")
@click.option(
    "--subject", "--template", "subject", help="Say what the images show; slots in braces take the values of --slot."
)
@click.option(
    "--edit",
    "edits",
    multiple=True,
    metavar="NAME=...",
    help="Add an edit: SOURCE -> TARGET, SLOT=VALUE, or words to add. Repeatable.",
)
@click.option(
    "--slot",
    "slots",
    multiple=True,
    metavar="NAME=A, B",
    help="List the values of a slot of the subject. Repeatable.",
)
@click.option(
    "--photos", is_flag=True, help="Write a recipe for photographs; --subject describes all of them, or is empty."
)
@click.option(
    "--teacher", help="Use this teacher: miniature, a folder in diffusers' format or a Hub id. (default: miniature)"
)
@click.option("--negative-prompt", help="Say what the teacher avoids. (default: what suits the teacher)")
@click.option("--from", "shipped", metavar="RECIPE", help="Start from a recipe that comes with the project.")
@click.option("--out", type=OUT_FILE, help="Write this file. (default: NAME.toml)")
def init(
    name: str,
    subject: str | None,
    edits: tuple[str, ...],
    slots: tuple[str, ...],
    photos: bool,
    teacher: str | None,
    negative_prompt: str | None,
    shipped: str | None,
    out: Path | None,
) -> None:
    """Write a recipe called NAME for an edit of your own. On a terminal, init asks for what is left out.

    \b
    distillery init snow --subject "a {pot} pot in a garden" --slot "pot=blue, white" --edit "snow=in the snow"
    distillery init winter --subject "a summer street" --edit "winter=summer street -> snowy street"
    distillery init masks --photos --subject "a photo of a person" --edit "zombie=a photo of a zombie"
    distillery init mine --from sofas --edit "green=color=green, material=velvet"
    """
    from flows.config.edit_syntax import (
        ParsedPhotoText,
        ParsedSceneText,
        parse_photo_text,
        parse_scene_text,
        scene_text_from_recipe,
        slot_values,
    )
    from flows.config.init import file_name, new_recipe, write_recipe
    from synth.dataset.prompts import Template
    from synth.errors import RecipeError
    from synth.files import check_target

    if shipped and (subject is not None or slots or photos):
        raise click.UsageError("--from brings its own subject and slots: leave out --subject, --slot and --photos")
    if photos:
        refuse_without_effect(("slots", "negative_prompt"), "with --photos, which are not painted")
    path = out or file_name(name)
    check_target(path, is_folder=False)
    # Before any question, so that no answer is lost.
    if path.exists():
        raise RecipeError(f"{path} exists already: choose another name or --out, or delete it")
    start = None
    parsed: ParsedSceneText | ParsedPhotoText
    if shipped:
        parsed, start = scene_text_from_recipe(shipped, edits)
    else:
        if subject is None:
            what = "What do the images show (one text; slots in braces)" if not photos else "What do the photos show"
            subject = _ask("--subject", what, default="" if photos else None)
        edits = edits or (_ask("--edit", "The edit, as NAME=OLD WORDS -> NEW WORDS"),)
        parsed = parse_photo_text(subject, edits) if photos else parse_scene_text(subject, edits, slot_values(slots))
    if teacher is None:
        teacher = _ask("--teacher", "The teacher", "miniature") if sys.stdin.isatty() else "miniature"

    # Another teacher has other sizes and guidance than the recipe to start from.
    same_teacher = start if start is not None and start.teacher.id == teacher else None
    recipe = write_recipe(new_recipe(name, parsed, teacher, negative_prompt, same_teacher), path)
    print_line(f"recipe  {path}")
    if not photos and Template(recipe.to_paint()).num_combinations == 1:
        print_line("note    all images have the same words: use slots to name what varies (docs/prompts.md)")
    _print_next_steps(path, photos, teacher)


def _print_next_steps(path: Path, photos: bool, teacher: str) -> None:
    """Print the commands that lead from the recipe at `path` to a model file."""
    from flows.config.teacher_kind import kind_of

    kind, by_name = kind_of(teacher)
    if by_name and kind.student == "compact":
        print_line(f"note    {teacher} is taken for a {kind.name}, by its name: see [training] if it is another")
    out = Path("runs") / path.stem
    if photos:
        commands = [
            f"preview {path} --images PHOTOS",
            f"import-photos PHOTOS --size {kind.usual_size} --out sets/{path.stem}",
            f"distill {path} --data sets/{path.stem} --out {out}",
            f"export {out}",
        ]
    else:
        commands = [f"preview {path}", f"run {path} --pilot --out {out}"]
    for number, command in enumerate(commands):
        print_line(f"{'' if number else 'then':8}distillery {command}")


def _ask(option: str, question: str, default: str | None = None) -> str:
    """Ask on the terminal; elsewhere the option is required."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"{option} is missing; on a terminal, init asks for it")
    answer: str = click.prompt(question, default=default, show_default=bool(default))
    return answer
