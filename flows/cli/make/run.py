"""`distillery run`: from a recipe to a model file."""

from pathlib import Path
from typing import Any

import click

from flows.cli.options import OUT_FOLDER, num_images_option, recipe_options, runner_options
from flows.cli.recipe import resolve
from flows.cli.results import print_line, print_results, print_times
from flows.orchestration.environment import prepare_flows


@click.command()
@click.option(
    "--pilot", is_flag=True, help="Run a few hundred images and steps first, in OUT-pilot; OUT keeps the images."
)
@click.option("--data", help="Read or paint the dataset at this folder or URL. (default: a folder in the run folder)")
@recipe_options
@num_images_option
@runner_options
@click.option(
    "--out", type=OUT_FOLDER, required=True, help="Use this run folder; a run that was killed in it resumes."
)
def run(
    recipe: str,
    out: Path,
    overrides: tuple[str, ...],
    trust: bool,
    pilot: bool,
    data: str | None,
    **short: Any,
) -> None:
    """Paint, distill, compress, export and measure: RECIPE in, model file out.

    RECIPE is `sofas`, `demo` or a TOML file. What an earlier run that was killed left in --out is kept. With --data,
    the run takes the dataset that `synthesize` painted for the recipe, and paints more if it is too small.

    \b
    distillery run sofas --teacher miniature --num-images 5000 --out runs/sofas
    distillery run sofas --set training.steps=200 --set training.seed=1 --out runs/other
    distillery run sofas --data sets/sofas --out runs/sofas
    distillery run mine.toml --pilot --out runs/mine
    """
    resolved = resolve(recipe, overrides, trust, **short)
    if pilot and data is not None:
        raise click.UsageError("--pilot paints a small dataset of its own: leave out --data or --pilot")
    from flows.config.parameter import as_parameter
    from flows.run.folder import RunFolder
    from flows.run.lock import exclusive_run

    # Refuse a folder that does not fit, or is in use, before a Prefect server starts for the run.
    run_folder = RunFolder.check(resolved, out)
    if data is None and not trust:
        run_folder.check_dataset_is_local()
    prepare_flows()
    with exclusive_run(resolved, out):
        from flows.stages.pipeline import pipeline

        if not pilot:
            with as_parameter(resolved) as recipe_or_file:
                pipeline(recipe_or_file, out, data)
            print_results(out)
            print_times(out)
            return
        from flows.run.pilot import prepare_pilot

        pilot_recipe, pilot_folder = prepare_pilot(resolved, out)
        with as_parameter(pilot_recipe) as recipe_or_file:
            pipeline(recipe_or_file, pilot_folder)
        print_results(pilot_folder)
        print_times(pilot_folder)
        num_painted = pilot_recipe.to_paint().count
        print_line(f"then   repeat the command without --pilot: it resumes from {num_painted} painted images")
