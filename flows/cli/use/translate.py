"""`distillery translate`: images through a model file."""

import sys
from pathlib import Path

import click

from flows.cli.options import FOLDER, provider_option
from flows.cli.results import print_error, print_line


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("--edit", required=True, help="Apply this edit, or `all`; `distillery inspect` lists them.")
@click.option(
    "--strength", default=1.0, show_default=True, help="Scale the edit: 0 leaves the image, 1 is the edit as trained."
)
@click.option(
    "--format",
    type=click.Choice(["png", "jpeg", "webp", "tiff", "bmp", "avif", "heif"], case_sensitive=False),
    help="Write this format. (default: each image's own; PNG for GIF)",
)
@click.option("--out", type=FOLDER, default=Path("edited"), show_default=True, help="Write into this folder.")
@provider_option
def translate(
    model: str,
    images: tuple[str, ...],
    edit: str,
    strength: float,
    format: str | None,
    out: Path,
    provider: str | None,
) -> None:
    """Apply an edit of MODEL, a file or hf://owner/name, to IMAGES of any size. Needs no torch.

    IMAGES are files, folders and quoted globs. A result keeps its image's format, EXIF, color profile and DPI; JPEG
    is written at quality 95, and at strength 0 the file is copied. contact_sheet.png, beside the results, shows
    inputs and edits. An image that cannot be read does not stop the others: it gets an error line at the end, and
    the exit code is 2.

    \b
    distillery translate model.onnx room.jpg --edit red-leather
    distillery translate model.onnx photos "more/**/*.png" --edit all --strength 0.8 --out edited
    """
    from tqdm import tqdm

    from inference.runtime import Translator
    from inference.translate import ContactSheet, list_jobs, translate_all
    from synth.images.writer import check_format

    translator = Translator.load(model, [provider] if provider else None)
    edits = list(translator.edits) if edit == "all" else [edit]
    # A call without images refuses a wrong edit or strength before anything is written.
    translator([], edits[0], strength)

    written_format = check_format(format) if format else None
    jobs, problems = list_jobs(images, edits, out, written_format)
    print_line(f"{len(jobs)} images, {len(edits)} edits, on {translator.providers[0]}", err=True)
    sheet = ContactSheet(edits)
    written: list[Path] = []
    notes: list[str] = []
    work = translate_all(translator, jobs, strength, sheet, problems, notes, written_format)
    for paths in tqdm(work, total=len(jobs), unit="image", disable=len(jobs) < 2):
        written += paths
    for path in [*written, *sheet.write(out)]:
        print_line(path)
    for note in notes:
        print_line(f"note: {note}", err=True)
    for problem in problems:
        print_error(problem)
    if problems:
        sys.exit(2)
