"""`distillery translate`: images and videos through a model file."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import click

from flows.cli.options import OUT_FOLDER, provider_option, refuse_without_effect
from flows.cli.results import network_of, print_line, print_outcome
from synth.errors import printable

T = TypeVar("T")


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
    help="Write images in this format. (default: each image's own; PNG for a GIF of one frame)",
)
@click.option("--out", type=OUT_FOLDER, default=Path("edited"), show_default=True, help="Write into this folder.")
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
    """Apply an edit of MODEL, a file, NAME.latest.json or hf://owner/name, to IMAGES of any size. Needs no torch.

    IMAGES are files, folders and quoted globs. A result keeps its image's format, EXIF, color profile and DPI; JPEG
    is written at quality 95, and at strength 0 the file is copied. contact_sheet.png, beside the results, shows
    inputs and edits. What is there already is not made again, and no other file is overwritten. An image that cannot
    be read does not stop the others: it gets an error line at the end, and the exit code is 2.

    Animations and videos among IMAGES are edited frame by frame, and keep times, loops and sound. Videos need the
    extra `video`; they are made in one go, so that one that is stopped starts again from its beginning.

    \b
    distillery translate model.onnx room.jpg --edit red-leather
    distillery translate model.onnx photos "more/**/*.png" --edit all --strength 0.8 --out edited
    distillery translate model.pixel.onnx clip.mp4 --edit red-leather
    """
    from tqdm import tqdm

    from inference.contact_sheet import ContactSheet
    from inference.inputs import list_inputs
    from inference.media.translate import Edits, Outcome, translate_all
    from inference.media.video import is_video
    from inference.pointer import resolved
    from inference.results import Results
    from inference.runtime import Translator
    from synth.images.writer import check_format

    translator = Translator.load(resolved(model), [provider] if provider else None)
    names = list(translator.edits) if edit == "all" else [edit]
    # A call without images refuses a wrong edit or strength before anything is written.
    translator([], names[0], strength)

    bars = ExitStack()  # a bar that an error leaves open would share its line

    def frames_bar(frames: Iterable[T], path: Path, total: int | None) -> Iterable[T]:
        bar: Iterable[T] = bars.enter_context(tqdm(frames, printable(path.name), total, leave=False, unit="frame"))
        return bar

    edits = Edits(translator, names, strength, check_format(format) if format else None, True, frames_bar)
    inputs = list_inputs(images, out, with_videos=True)
    num_videos = sum(is_video(image.path) for image in inputs.images)
    if num_videos and num_videos == len(inputs.images):
        refuse_without_effect(("format",), "on videos, which keep their own")
    results = Results(out)
    counts = [f"{len(inputs.images) - num_videos} images", *([f"{num_videos} videos"] if num_videos else [])]
    runs_on = f"{translator.providers[0]}{network_of(translator)}"
    print_line(f"{', '.join(counts)}, {len(names)} edits, on {runs_on}", err=True)
    if num_videos:
        print_line("a video is made in one go: one that is stopped starts again from its beginning", err=True)
    sheet, outcome = ContactSheet(names), Outcome(problems=inputs.problems, notes=inputs.notes)
    work = translate_all(edits, inputs.images, results, sheet, outcome)
    try:
        with bars:
            for _ in tqdm(work, total=len(inputs.images), unit="file", disable=len(inputs.images) < 2):
                pass
    except KeyboardInterrupt:
        print_line(
            "stopped: what is written is whole, and what was in work starts again from its beginning", err=True
        )
        raise
    print_outcome(outcome)
