"""The verbs that end in a model file: paint, distil, export."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from flows.cli.options import FOLDER, trust_option
from flows.orchestration.environment import prepare
from synth.errors import TrainingError

_Verb = TypeVar("_Verb", bound=Callable[..., Any])
_SHORT = {
    "teacher": "teacher.id",
    "num_images": "scenes.count",
    "runner": "operations.runner",
    "ray_address": "operations.ray_address",
}


def recipe_options(verb: _Verb) -> _Verb:
    """RECIPE, and the options that change it."""
    for decorate in (
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change any key of the recipe."),
        trust_option,
        click.option("--num-images", type=click.IntRange(1), help="Short for --set scenes.count=N."),
        click.option("--teacher", help="Short for --set teacher.id=...: miniature, a folder or a Hub id."),
        click.argument("recipe"),
    ):
        verb = decorate(verb)
    return verb


def _runner_options(verb: _Verb) -> _Verb:
    """Who paints the shards."""
    for decorate in (
        click.option("--ray-address", metavar="URL", help="Of a Ray cluster that is there: ray://host:10001."),
        click.option("--runner", type=click.Choice(["threads", "ray"]), help="Who paints: this process, or Ray."),
    ):
        verb = decorate(verb)
    return verb


@click.command()
@click.option(
    "--pilot", is_flag=True, help="A few hundred images and steps first, in OUT-pilot; OUT goes on with them."
)
@click.option("--data", help="Where the painted set is or goes, a folder or a URL, if not in the run folder.")
@recipe_options
@_runner_options
@click.option("--out", type=FOLDER, required=True, help="Run folder; a killed run in it goes on.")
def run(
    recipe: str,
    out: Path,
    overrides: tuple[str, ...],
    trust: bool,
    pilot: bool,
    data: str | None,
    **short: Any,
) -> None:
    """Paint, distil, export and measure: RECIPE in, model file out.

    RECIPE is `sofas`, `demo` or a TOML file. What an earlier, killed run left in --out is kept. A set that was
    painted for the recipe by `synthesize` is taken as it is, and grows if it is too small: name it by --data.

    \b
    distillery run sofas --teacher miniature --num-images 5000 --out runs/sofas
    distillery run sofas --set training.steps=200 --set training.seed=1 --out runs/other
    distillery run sofas --data sets/sofas --out runs/sofas
    distillery run mine.toml --pilot --out runs/mine
    """
    resolved = resolve(recipe, overrides, trust, **short)
    if pilot and data is not None:
        raise click.UsageError("--pilot paints a small set of its own: leave --data out, or --pilot")
    prepare()
    from flows.run.folder import RunFolder
    from flows.stages.pipeline import pipeline

    run_folder = RunFolder.check(resolved, out)  # refused before a server is started for it
    if data is None and not trust:
        run_folder.check_dataset_is_local()
    if pilot:
        from flows.run.pilot import prepare_pilot

        small, folder = prepare_pilot(resolved, out)
        pipeline(small, folder)
        tell_results(folder)
        click.echo(
            f"then   the same command without --pilot: it goes on from {small.to_paint().count} painted images"
        )
        return
    pipeline(resolved, out, data)
    tell_results(out)


@click.command()
@click.option("--dry-run", is_flag=True, help="Paint one batch, keep nothing, and say what the set will take.")
@recipe_options
@_runner_options
@click.option("--out", required=True, help="Folder or URL of the data set.")
def synthesize(recipe: str, out: str, overrides: tuple[str, ...], trust: bool, dry_run: bool, **short: Any) -> None:
    """Paint the training set of RECIPE alone, at --out: a folder, or a URL such as s3://bucket/sofas.

    A killed run goes on; asked for more images later, the set grows. Open preview.html to look at it and to veto.

    \b
    distillery synthesize sofas --num-images 500 --out sets/sofas
    distillery synthesize sofas --teacher some/hub-id --dry-run --out sets/sofas
    """
    resolved = resolve(recipe, overrides, trust, **short)
    prepare()
    if dry_run:
        from flows.planning.dry_runs import dry_run_painting

        click.echo(dry_run_painting(resolved))
        return
    from flows.stages.synthesize import synthesize_flow

    synthesize_flow(resolved, out)
    click.echo(f"data set  {out.rstrip('/')}")


@click.command("import-photos")
@click.argument("source")
@click.option("--size", "image_size", default=512, show_default=True, help="Side of the squares they are made.")
@click.option("--fit", type=click.Choice(["crop", "pad"]), default="crop", help="Cut to a square (crop) or pad.")
@click.option("--caption-column", default="text", show_default=True, help="Of Parquet, of a data set, of metadata.")
@click.option("--image-column", default="image", show_default=True, help="Of Parquet, of a data set.")
@click.option("--split", default="train", show_default=True, help="Of a data set on the Hub.")
@click.option("--out", required=True, help="Folder or URL of the data set.")
def import_photos(source: str, out: str, **settings: Any) -> None:
    """Make a data set of one's own photographs: SOURCE is a folder, Parquet, or the Hub id of a data set.

    What cannot be used is listed in rejects/ with its reason. A folder may hold metadata.jsonl with captions.

    \b
    distillery import-photos ~/Pictures/rooms --size 512 --out sets/rooms
    """
    from pydantic import ValidationError

    from synth.settings import PhotoSettings

    try:
        chosen = PhotoSettings(**settings)
    except ValidationError as error:
        raise click.UsageError(f"--size: {error.errors()[0]['msg']}") from None
    prepare()
    from synth.dataset.photographs import import_photos as make_set

    click.echo(f"data set  {make_set(source, chosen, out)}")


@click.command()
@click.option("--data", required=True, help="A painted or imported set, folder or URL.")
@click.option("--preset", help="Begin from these settings in place of all of the recipe's [training]: paper, short.")
@click.option("--resume", is_flag=True, help="Only go on: refuse to begin where no checkpoint is.")
@click.option("--dry-run", is_flag=True, help="Do a few steps, keep nothing, and say what the training will take.")
@recipe_options
@click.option("--out", type=FOLDER, required=True, help="Run folder; a killed training in it goes on.")
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
    """Train the student of RECIPE alone, on a set that is painted already, or on photographs.

    For several GPUs or machines start it with `accelerate launch`; they share every batch, and --out must be a
    folder that all of them see.

    \b
    distillery distill sofas --data sets/sofas --out runs/sofas
    distillery distill sofas --data s3://bucket/sofas --preset paper --dry-run --out runs/paper
    accelerate launch --multi_gpu $(which distillery) distill sofas --data sets/sofas --out runs/sofas
    """
    resolved = resolve(recipe, overrides, trust, **short)
    if preset is not None:
        from flows.config.loading import with_overrides

        resolved = with_overrides(resolved, [f"training.preset={json.dumps(preset)}", *overrides])
    prepare()
    from distill import checkpoints
    from flows.stages.distill import distill_flow, distill_in_rank, is_launched_rank
    from synth.dataset.image_dataset import ImageDataset

    ImageDataset(data)  # refused before anything is made
    if resume and checkpoints.latest(out) is None:
        raise TrainingError(f"{out} has no checkpoint to resume from: leave --resume out to begin")
    if dry_run:
        from flows.planning.dry_runs import dry_run_training

        click.echo(dry_run_training(resolved, data))
    elif is_launched_rank():
        from accelerate import PartialState

        student = distill_in_rank(resolved, out, data)
        PartialState().print(f"student  {student}")  # the main process alone
    else:
        click.echo(f"student  {distill_flow(resolved, out, data)}")


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--format", "formats", metavar="LIST", help="Of onnx, torchscript and pt2, with commas.")
@click.option("--precision", "precisions", metavar="LIST", help="Of float32, float16 and int8, with commas.")
@trust_option
@click.option(
    "--vae",
    metavar="TEXT",
    help="A small VAE in place of the teacher's: a folder or a Hub id; `teacher` for its own again.",
)
def export(folder: Path, formats: str | None, precisions: str | None, vae: str | None, trust: bool) -> None:
    """Write the model files of the run in FOLDER, from its student.

    model.onnx in float32 is always there; what the options name is written beside it, each format in each precision
    (int8 for onnx alone). A file that does not answer as PyTorch does is refused, with the figure.

    \b
    distillery export runs/sofas
    distillery export runs/sofas --format onnx,torchscript,pt2 --precision float32,float16,int8
    distillery export runs/sofas --vae madebyollin/taesd
    """
    from flows.config.loading import with_overrides

    wanted = {"formats": formats, "precisions": precisions}
    overrides = [f"export.{key}={json.dumps(value.split(','))}" for key, value in wanted.items() if value is not None]
    overrides += [] if vae is None else [f"export.vae={json.dumps(vae)}"]
    recipe = with_overrides(trusted_recipe_of(folder, trust), overrides)
    prepare()
    from flows.stages.export import export as write_models
    from flows.stages.frame import open_run

    with open_run("export {name} in {out}", recipe, folder, adopt=False) as run:
        write_models(run)
    for kind in recipe.export.kinds():
        click.echo(f"model  {folder / kind.file_name}")


def resolve(recipe: str, overrides: tuple[str, ...], trust: bool, **short: Any) -> Any:
    """The recipe with all that the command line says; --set has the last word.

    What runs code or reaches outside is taken from the command line, and from the file only with --trust.
    """
    from flows.config.loading import load_recipe
    from flows.config.trust import check_trust, trust_process

    named = {_SHORT[option]: value for option, value in short.items() if value is not None}
    changes = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in named.items()]
    given = [*changes, *overrides]
    resolved = load_recipe(recipe, given)
    if not trust:
        check_trust(resolved, given)
    trust_process()
    return resolved


def trusted_recipe_of(folder: Path, trust: bool) -> Any:
    """The recipe of a run that is to be worked on: as `resolve`, from its folder."""
    from flows.config.trust import check_trust, trust_process
    from flows.run.folder import RunFolder

    recipe = recipe_of(folder)
    if not trust:
        check_trust(recipe)
        RunFolder(folder).check_dataset_is_local()
    trust_process()
    return recipe


def recipe_of(folder: Path) -> Any:
    """The recipe of a run that is only looked at."""
    from flows.run.folder import RunFolder

    return RunFolder(folder).load_recipe()


def tell_results(out: Path) -> None:
    """The numbers, and where to look."""
    from flows.reports.tables import text_table
    from flows.run.folder import RunFolder

    folder = RunFolder(out)
    if (evaluation := folder.read_evaluation()) is not None:
        click.echo(f"\n{text_table(evaluation)}\n")
    for name, path in (("grid", folder.grid), ("report", folder.report), ("model", folder.model)):
        if path.exists():
            click.echo(f"{name:7}{path}")


VERBS = run, synthesize, import_photos, distill, export
