"""`distillery import-photos`: a dataset of your own photographs."""

from typing import Any

import click

from flows.cli.options import OUT_PLACE, settings_of_options
from flows.cli.results import print_line
from flows.orchestration.environment import prepare


@click.command("import-photos")
@click.argument("source")
@click.option("--size", "image_size", default=512, show_default=True, help="Make squares with this side, in pixels.")
@click.option(
    "--fit",
    type=click.Choice(["crop", "pad"]),
    default="crop",
    show_default=True,
    help="Crop images to a square, or pad them.",
)
@click.option(
    "--caption-column",
    default="text",
    show_default=True,
    help="Read captions from this column of Parquet, of a Hub dataset or of metadata.jsonl.",
)
@click.option(
    "--image-column",
    default="image",
    show_default=True,
    help="Read images from this column of Parquet or of a Hub dataset.",
)
@click.option("--split", default="train", show_default=True, help="Take this split of a Hub dataset.")
@click.option("--out", type=OUT_PLACE, required=True, help="Write the dataset to this folder or URL.")
def import_photos(source: str, out: str, **settings: Any) -> None:
    """Make a dataset of your own photographs. SOURCE is a folder, a Parquet file or the Hub id of a dataset.

    A folder may hold metadata.jsonl with captions. rejects/ lists each image that cannot be used, with the reason.

    \b
    distillery import-photos ~/Pictures/rooms --size 512 --out sets/rooms
    """
    from synth.settings import PhotoSettings

    photo_settings = settings_of_options(PhotoSettings, settings)
    prepare()
    from synth.dataset import photographs

    print_line(f"dataset  {photographs.import_photos(source, photo_settings, out)}")
