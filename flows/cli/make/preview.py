"""`distillery preview`: what a recipe's edits look like, before anything long."""

from pathlib import Path
from typing import Any

import click

from flows.cli.options import OUT_FILE, num_images_option, recipe_options
from flows.cli.recipe import resolve
from flows.cli.results import print_line
from flows.orchestration.environment import prepare_prefect


class _Numbers(click.ParamType[Any]):
    """A list of numbers, separated by commas."""

    name = "numbers"

    def __init__(self, kind: type, minimum: float) -> None:
        self._kind = kind
        self._minimum = minimum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """ "1.5,3" -> (1.5, 3.0)."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self._kind(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers separated by commas", param, ctx)
        if not all(number >= self._minimum for number in numbers):
            self.fail(f"{value!r}: each must be {self._minimum:g} or more", param, ctx)
        return numbers


@click.command()
@click.option(
    "--images", type=click.Path(exists=True, path_type=Path), help="Edit this folder, for a recipe of photographs."
)
@click.option(
    "--guidance",
    type=_Numbers(float, 1),
    default=(),
    metavar="LIST",
    help="Try these guidance scales, such as 5,7.5. (default: three around the teacher's own)",
)
@click.option(
    "--iterations",
    type=_Numbers(int, 1),
    default=(),
    metavar="LIST",
    help="Show the edits after these iterations. (default: 50,100,200; 20,40 on a CPU)",
)
@click.option(
    "--num-examples", type=click.IntRange(1), help="Edit this many images, shared among the edits. (default: 12)"
)
@click.option("--whole-image", is_flag=True, help="Expect edits that change all of an image: weather, a style.")
@click.option(
    "--dollars-per-hour",
    type=click.FloatRange(0),
    help="Estimate costs at this price of the machine. (default: 2 for a GPU)",
)
@click.option(
    "--out",
    type=OUT_FILE,
    help="Write this HTML file. (default: NAME-preview.html)",
)
@recipe_options
@num_images_option
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
    """Show the edits of RECIPE on a dozen images, without training: one page, and go or no-go.

    \b
    distillery preview sofas --out sofas.html
    distillery preview masks.toml --images photos --guidance 5,7.5,10 --iterations 100,200
    """
    resolved = resolve(recipe, overrides, trust, teacher=teacher, num_images=num_images)
    prepare_prefect()
    import flows.planning.preview
    from synth.files import check_target
    from synth.words import slug

    path = out or Path(f"{slug(resolved.name)}-preview.html")
    check_target(path, is_folder=False)
    result = flows.planning.preview.preview(
        resolved,
        path,
        images,
        guidance,
        iterations,
        num_examples or flows.planning.preview.NUM_IMAGES,
        whole_image,
        dollars_per_hour,
    )
    for line in (*result.costs, f"page  {path}", result.verdict):
        print_line(line)
