"""`distillery publish`: a model, its page or a dataset to the Hugging Face Hub."""

from pathlib import Path

import click

from flows.cli.results import print_line
from flows.orchestration.environment import prepare


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--to", required=True, help="Upload to hf://owner/name, or hf://datasets/owner/name for a dataset.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--space", is_flag=True, help="Upload the model's page as a static Space, which is free to host.")
def publish(folder: Path, to: str, private: bool, space: bool) -> None:
    """Upload the model of the run in FOLDER, its page or the dataset in it to the Hugging Face Hub, with its card.

    \b
    distillery publish runs/sofas --to hf://owner/sofas
    distillery publish runs/sofas --to hf://owner/sofas --space
    distillery publish sets/sofas --to hf://datasets/owner/sofas
    """
    prepare()
    import flows.publish

    print_line(flows.publish.publish(folder, to, private, space))
