"""`distillery synthesize`: the painted dataset alone."""

from typing import Any

import click

from flows.cli.options import OUT_PLACE, num_images_option, recipe_options, refuse_without_effect, runner_options
from flows.cli.recipe import resolve
from flows.cli.results import print_line, print_text
from flows.orchestration.environment import prepare_flows, prepare_prefect


@click.command()
@click.option("--dry-run", is_flag=True, help="Paint one batch, keep nothing, and estimate the whole dataset.")
@recipe_options
@num_images_option
@runner_options
@click.option("--out", type=OUT_PLACE, required=True, help="Write the dataset to this folder or URL.")
def synthesize(recipe: str, out: str, overrides: tuple[str, ...], trust: bool, dry_run: bool, **short: Any) -> None:
    """Paint only the training set of RECIPE, at --out: a folder, or a URL such as s3://bucket/sofas.

    A run that was killed resumes; ask for more images later, and the dataset grows. Open preview.html to look at the
    images and to veto some.

    \b
    distillery synthesize sofas --num-images 500 --out sets/sofas
    distillery synthesize sofas --teacher some/hub-id --dry-run --out sets/sofas
    """
    resolved = resolve(recipe, overrides, trust, **short)
    if dry_run:
        refuse_without_effect(("runner", "ray_address"), "with --dry-run, which paints one batch in this process")
        prepare_prefect()
        from flows.planning.dry_runs import dry_run_painting

        print_text(dry_run_painting(resolved, out))
        return
    prepare_flows()
    from flows.config.parameter import as_parameter
    from flows.stages.synthesize import synthesize_flow

    with as_parameter(resolved) as recipe_or_file:
        synthesize_flow(recipe_or_file, out)
    print_line(f"dataset  {out.rstrip('/')}")
