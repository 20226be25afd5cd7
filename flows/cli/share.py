"""The verb that hands results on."""

from pathlib import Path

import click

from flows.orchestration.environment import prepare


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--to", required=True, help="hf://owner/name, or hf://datasets/owner/name for a data set.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
def publish(folder: Path, to: str, private: bool) -> None:
    """Upload the model of the run in FOLDER, or the data set in it, to the Hugging Face Hub, with its card.

    \b
    distillery publish runs/sofas --to hf://owner/sofas
    distillery publish sets/sofas --to hf://datasets/owner/sofas
    """
    prepare()
    from flows.publish import publish as upload

    click.echo(upload(folder, to, private))


VERBS = (publish,)
