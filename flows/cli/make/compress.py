"""`distillery compress`: the student as a pixel network."""

from pathlib import Path

import click

from flows.cli.options import FOLDER, trust_option
from flows.cli.recipe import trusted_recipe_of
from flows.cli.results import print_results, print_text
from flows.orchestration.environment import prepare_prefect

_EARLIER = ("name", "scenes", "photos", "edits", "training")
"""Tables of the recipe that the dataset and the student are made from."""


@click.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the run's recipe, such as pixel.size.",
)
@click.option("--dry-run", is_flag=True, help="Make a few pairs and steps, keep nothing, and estimate the whole.")
@trust_option
def compress(folder: Path, overrides: tuple[str, ...], dry_run: bool, trust: bool) -> None:
    """Compress the student of the run in FOLDER into a small network from image to image.

    It learns from what the student makes of the run's dataset, needs no VAE and runs live. Writes model.pixel.onnx
    beside model.onnx, and measures both. A training that was killed resumes.

    \b
    distillery compress runs/sofas
    distillery compress runs/sofas --set pixel.size=large --dry-run
    """
    from flows.config.loading import with_overrides
    from synth.errors import RecipeError

    for key in (override.partition("=")[0].strip() for override in overrides):
        if key.partition(".")[0] in _EARLIER:
            raise RecipeError(f"--set {key} has no effect on a student that is trained already")
    recipe = with_overrides(trusted_recipe_of(folder, trust), list(overrides))
    prepare_prefect()
    if dry_run:
        from flows.planning.dry_runs import dry_run_compression

        print_text(dry_run_compression(recipe, folder))
        return
    from flows.stages.compress import compress_run

    compress_run(folder, recipe)
    print_results(folder)
