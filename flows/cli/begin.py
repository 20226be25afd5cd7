"""The verbs that come before anything long: a new recipe, and a look at what it would do."""

import sys
from pathlib import Path
from typing import Any

import click

from flows.cli.make import recipe_options, resolve
from flows.orchestration.environment import prepare


@click.command()
@click.argument("name")
@click.option("--subject", "--template", "subject", help="What the images show; slots in braces take --slot values.")
@click.option(
    "--edit", "edits", multiple=True, metavar="NAME=...", help="SOURCE -> TARGET, SLOT=VALUE, or words to add."
)
@click.option("--slot", "slots", multiple=True, metavar="NAME=A, B", help="The values of a slot of the subject.")
@click.option("--photos", is_flag=True, help="For photographs: --subject is the one source text, and may be empty.")
@click.option("--teacher", help="miniature (unless said), a folder in diffusers' format, or a Hub id.")
@click.option("--negative-prompt", help="What the teacher keeps away from; a start that suits it unless said.")
@click.option("--from", "shipped", metavar="RECIPE", help="Start from a recipe that comes with the project.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The file; NAME.toml unless said.")
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
    """Write a recipe for an edit of your own, called NAME. What is left out is asked for, on a terminal.

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
    from flows.config.init import MINIATURE_SIZE, PAPER_SIZE, file_name, new_recipe, write_recipe
    from synth.dataset.prompts import Template
    from synth.errors import RecipeError

    if shipped and (subject is not None or slots or photos):
        raise click.UsageError("--from brings its own subject and slots: leave out --subject, --slot and --photos")
    path = out or file_name(name)
    if path.exists():
        raise RecipeError(f"{path} is there already: choose another name or --out, or delete it")
    start = None
    words: ParsedSceneText | ParsedPhotoText
    if shipped:
        words, start = scene_text_from_recipe(shipped, edits)
    else:
        if subject is None:
            what = "What do the images show (one text; slots in braces)" if not photos else "What do the photos show"
            subject = _ask("--subject", what, default="" if photos else None)
        edits = edits or (_ask("--edit", "The edit, as NAME=OLD WORDS -> NEW WORDS"),)
        words = parse_photo_text(subject, edits) if photos else parse_scene_text(subject, edits, slot_values(slots))
    if teacher is None:
        teacher = _ask("--teacher", "The teacher", "miniature") if sys.stdin.isatty() else "miniature"
    same_teacher = start if start is not None and start.teacher.id == teacher else None
    recipe = write_recipe(new_recipe(name, words, teacher, negative_prompt, same_teacher), path)
    run = Path("runs") / path.stem
    images = " --images PHOTOS" if photos else ""
    click.echo(f"recipe  {path}")
    if not photos and Template(recipe.to_paint()).num_combinations == 1:
        click.echo("note    all images have the same words: name what shall vary with slots (docs/prompts.md)")
    click.echo(f"then    distillery preview {path}{images}")
    if photos:
        size = MINIATURE_SIZE if teacher == "miniature" else PAPER_SIZE
        click.echo(f"        distillery import-photos PHOTOS --size {size} --out sets/{path.stem}")
        click.echo(f"        distillery distill {path} --data sets/{path.stem} --out {run}")
        click.echo(f"        distillery export {run}")
    else:
        click.echo(f"        distillery run {path} --pilot --out {run}")


def _ask(option: str, question: str, default: str | None = None) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError(f"{option} is missing; on a terminal it is asked for")
    answer: str = click.prompt(question, default=default, show_default=bool(default))
    return answer


class _Numbers(click.ParamType[Any]):
    """Numbers with commas."""

    name = "numbers"

    def __init__(self, kind: type, least: float) -> None:
        self._kind, self._least = kind, least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """ "1.5,3" -> (1.5, 3.0)."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self._kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers with commas", param, ctx)
        if not all(number >= self._least for number in numbers):
            self.fail(f"{value!r}: each must be {self._least:g} or more", param, ctx)
        return numbers


@click.command()
@click.option(
    "--images", type=click.Path(exists=True, path_type=Path), help="For a recipe of photographs: a folder of them."
)
@click.option("--guidance", type=_Numbers(float, 1), default=(), metavar="LIST", help="Scales to try, with commas.")
@click.option("--iterations", type=_Numbers(int, 1), default=(), metavar="LIST", help="To look at, with commas.")
@click.option("--num-examples", type=click.IntRange(1), help="How many images share the edits; 12 unless said.")
@click.option("--whole-image", is_flag=True, help="The edits change all of an image: weather, a style.")
@click.option(
    "--dollars-per-hour", type=click.FloatRange(0), help="What this machine costs; 2 for a GPU unless said."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="NAME-preview.html unless said.")
@recipe_options
def preview(
    recipe: str,
    images: Path | None,
    guidance: tuple[float, ...],
    iterations: tuple[int, ...],
    num_examples: int | None,
    whole_image: bool,
    dollars_per_hour: float | None,
    out: Path | None,
    teacher: str | None,
    num_images: int | None,
    overrides: tuple[str, ...],
    trust: bool,
) -> None:
    """Look at the edits of RECIPE before anything long: a dozen images, no training, one page, go or no-go.

    \b
    distillery preview sofas --out sofas.html
    distillery preview masks.toml --images photos --guidance 5,7.5,10 --iterations 100,200
    """
    resolved = resolve(recipe, overrides, trust, teacher=teacher, num_images=num_images)
    prepare()
    from flows.planning.preview import NUM_IMAGES
    from flows.planning.preview import preview as look
    from flows.run.folder import slug

    path = out or Path(f"{slug(resolved.name)}-preview.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    number = num_examples or NUM_IMAGES
    seen = look(resolved, path, images, guidance, iterations, number, whole_image, dollars_per_hour)
    click.echo("\n".join([*seen.costs, f"page  {path}", seen.verdict]))


VERBS = init, preview
