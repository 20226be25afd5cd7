"""`distillery import-photos`: a dataset of your own photographs."""

from typing import TYPE_CHECKING, Any

import click

from flows.cli.options import OUT_PLACE, settings_of_options
from flows.cli.results import print_line
from flows.orchestration.environment import prepare

if TYPE_CHECKING:
    from synth.dataset.importing import Imported

_SHOWN = 100  # characters of a caption


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
    help="Read captions from this column of Parquet, of a Hub dataset or of metadata. "
    "(default: text, caption, prompt or the like)",
)
@click.option(
    "--image-column",
    help="Read images from this column of Parquet or of a Hub dataset. (default: image, jpg or the like)",
)
@click.option(
    "--split", default="train", show_default=True, help="Take this split, of a Hub dataset or a folder that has some."
)
@click.option("--out", type=OUT_PLACE, required=True, help="Write the dataset to this folder or URL.")
def import_photos(source: str, out: str, **settings: Any) -> None:
    """Make a dataset of your own photographs, or bring it up to date.

    SOURCE is a folder, a Parquet file, a tar archive or the Hub id of a dataset. Captions are read from
    metadata.jsonl, .csv or .parquet in any folder, from 0.txt beside 0.png, from img2dataset's output and from
    webdataset's archives. rejects/ lists each file that cannot be used, with the reason. A second import finds what
    was added, removed, replaced or captioned anew.

    \b
    distillery import-photos ~/Pictures/rooms --size 512 --out sets/rooms
    """
    from synth.settings import PhotoSettings

    photo_settings = settings_of_options(PhotoSettings, settings)
    prepare()
    from synth.dataset.importing import import_photos

    made = import_photos(source, photo_settings, out)
    print_line(f"dataset  {made.store}")
    print_line(f"images   {made.num_images}, {_changes(made)}")
    if made.num_rejected:
        print_line(f"rejects  {made.num_rejected}, listed with their reasons in rejects/ and preview.html")
    print_line(f"captions {made.num_captioned} of {made.num_images} images have one")
    for name, caption in made.captions:
        print_line(f"         {name}: {caption if len(caption) <= _SHOWN else caption[:_SHOWN] + '...'}")
    for note in made.notes:
        print_line(f"note: {note}", err=True)


def _changes(made: "Imported") -> str:
    """What an import changed, in words."""
    counts = {"new": made.num_new, "removed": made.num_removed, "with another caption": made.num_recaptioned}
    changed = [f"{count} {what}" for what, count in counts.items() if count]
    return ", ".join(changed) or "all of them there already"
