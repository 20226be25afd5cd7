"""`distillery export`: a student as model files."""

import json
from pathlib import Path

import click

from flows.cli.options import FOLDER, trust_option
from flows.cli.recipe import trusted_recipe_of
from flows.cli.results import print_line
from flows.orchestration.environment import prepare_prefect


@click.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "--format", "formats", metavar="LIST", help="Write these formats: onnx, torchscript and pt2, separated by commas."
)
@click.option(
    "--precision",
    "precisions",
    metavar="LIST",
    help="Write these precisions: float32, float16 and int8, separated by commas.",
)
@trust_option
@click.option(
    "--vae",
    metavar="TEXT",
    help="Use a small VAE, a folder or a Hub id, instead of the teacher's; `teacher` goes back to it.",
)
def export(folder: Path, formats: str | None, precisions: str | None, vae: str | None, trust: bool) -> None:
    """Write the model files of the run in FOLDER from its student, and from its pixel network if there is one.

    Always writes model.onnx in float32, and beside it each format in each precision that the options name (int8 for
    onnx only). Refuses a file whose output differs from PyTorch's, and says by how much.

    \b
    distillery export runs/sofas
    distillery export runs/sofas --format onnx,torchscript,pt2 --precision float32,float16,int8
    distillery export runs/sofas --vae madebyollin/taesd
    """
    from flows.config.loading import with_overrides

    lists = {"formats": formats, "precisions": precisions}
    overrides = [f"export.{key}={json.dumps(value.split(','))}" for key, value in lists.items() if value is not None]
    if vae is not None:
        overrides.append(f"export.vae={json.dumps(vae)}")
    recipe = with_overrides(trusted_recipe_of(folder, trust), overrides)
    prepare_prefect()
    import flows.stages.export
    from flows.run.compressed import has_pixel_network
    from flows.run.folder import RunFolder
    from flows.stages.frame import open_run

    with open_run("export {name} in {out}", recipe, folder, adopt=False) as run:
        flows.stages.export.export(run)
    kinds = recipe.export.kinds()
    for kind in kinds:
        print_line(f"model  {folder / kind.file_name}")
    for kind in kinds if has_pixel_network(recipe, RunFolder(folder)) else []:
        print_line(f"pixel  {folder / kind.pixel_file_name}")
