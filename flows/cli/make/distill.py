"""`distillery distill`: the training alone."""

import json
from pathlib import Path
from typing import Any

import click

from flows.cli.options import OUT_FOLDER, recipe_options
from flows.cli.recipe import resolve
from flows.cli.results import print_line, print_text
from flows.orchestration.environment import prepare_flows, prepare_prefect
from synth.errors import TrainingError, printable


@click.command()
@click.option("--data", required=True, help="Train on the painted or imported dataset at this folder or URL.")
@click.option(
    "--preset",
    help="Start from this preset instead of the recipe's [training], before --set: paper, compact or short.",
)
@click.option("--resume", is_flag=True, help="Resume only: refuse to start where there is no checkpoint.")
@click.option("--dry-run", is_flag=True, help="Train a few steps, keep nothing, and estimate the whole training.")
@recipe_options
@click.option(
    "--out", type=OUT_FOLDER, required=True, help="Use this run folder; a training that was killed in it resumes."
)
def distill(
    recipe: str,
    out: Path,
    overrides: tuple[str, ...],
    trust: bool,
    data: str,
    preset: str | None,
    resume: bool,
    dry_run: bool,
    **short: Any,
) -> None:
    """Train only the student of RECIPE, on all images of a dataset that is painted already, or on photographs.

    For several GPUs or machines, start it with `accelerate launch`: the processes share every batch, and --out must
    be a folder that all of them see.

    \b
    distillery distill sofas --data sets/sofas --out runs/sofas
    distillery distill sofas --data s3://bucket/sofas --preset paper --dry-run --out runs/paper
    accelerate launch --multi_gpu $(which distillery) distill sofas --data sets/sofas --out runs/sofas
    """
    resolved = resolve(recipe, overrides, trust, **short)
    if preset is not None:
        from flows.config.loading import with_overrides

        resolved = with_overrides(resolved, [f"training.preset={json.dumps(preset)}", *overrides])
    prepare_prefect()
    from distill.training import checkpoints
    from flows.config.parameter import as_parameter
    from flows.run.lock import exclusive_run
    from flows.stages.distill import distill_flow, distill_in_rank, is_launched_rank
    from synth.dataset.image_dataset import ImageDataset

    ImageDataset(data)  # refuses a dataset that is missing or broken, before the run folder is made
    if resume and checkpoints.latest(out) is None:
        raise TrainingError(f"{out} has no checkpoint to resume from: leave out --resume to start")
    if dry_run:
        from flows.planning.dry_runs import dry_run_training

        print_text(dry_run_training(resolved, out, data))
    elif is_launched_rank():
        from accelerate import PartialState

        student = distill_in_rank(resolved, out, data)
        PartialState().print(printable(f"student  {student}"))  # from the main process alone
    else:
        prepare_flows()
        with exclusive_run(resolved, out), as_parameter(resolved) as recipe_or_file:
            print_line(f"student  {distill_flow(recipe_or_file, out, data)}")
