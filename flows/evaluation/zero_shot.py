"""Zero-shot edits of image files: a teacher and a prompt, no training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from distill.settings import EditSettings
from synth.errors import ImageInputError

if TYPE_CHECKING:
    from PIL import Image

    from distill.optimization import Progress
    from inference.inputs import Input
    from inference.media.translate import Outcome
    from inference.results import Results
    from synth.teacher.teacher import Teacher

_BATCH = 4  # images of one size, edited together
_FRAMES = 20  # in a series


def edit_files(
    teacher: "Teacher",
    paths: Sequence[Path],
    prompt: str,
    source_prompt: str,
    settings: EditSettings,
    out: Path,
    series: bool = False,
) -> "Outcome":
    """Edit image files, or all images in folders, and write `NAME_edited` for each into `out`, in its own format.

    Meanwhile `out/preview.png` shows the present state of the images being edited. What an earlier call made already
    is skipped, and no other file is overwritten.

    Args:
        teacher: the diffusion model.
        paths: image files and folders.
        prompt: what the edited images should show.
        source_prompt: what the images show.
        settings: of the optimization.
        out: the folder of the results.
        series: also write `NAME_series.gif`, from the input to the result.

    Returns:
        The edited images, and a line for each that cannot be edited.

    Raises:
        TeacherError: if the teacher cannot score, or a prompt is too long for it.
        FileError: if a result cannot be written.
    """
    from inference.inputs import list_inputs
    from inference.media.translate import Outcome
    from inference.results import Results, Wanted, key_of

    teacher.check_prompts([prompt, source_prompt])
    inputs, results = list_inputs(paths, out), Results(out)
    outcome = Outcome(problems=inputs.problems, notes=inputs.notes)
    key = key_of(teacher.fingerprint, prompt, source_prompt, settings.model_dump(mode="json"))
    kinds = ["edit", "edit series"] if series else ["edit"]
    to_do = []
    for image in inputs.images:
        found = [results.find(Wanted(image.path, kind, key)) for kind in kinds]
        if found[0] is not None and all(found):
            outcome.files.append(found[0])
            outcome.num_skipped += 1
        else:
            to_do.append(image)
    batches = _batches(to_do, outcome)
    total = sum(len(batch) for batch in batches) * settings.iterations
    with tqdm(total=total, desc="editing", unit="iteration", disable=not batches) as bar:
        for batch in batches:
            outcome.files += _edit_batch(teacher, batch, (prompt, source_prompt), settings, results, key, series, bar)
    return outcome


def _edit_batch(
    teacher: "Teacher",
    batch: "Sequence[Input]",
    prompts: tuple[str, str],
    settings: EditSettings,
    results: "Results",
    key: str,
    series: bool,
    bar: "tqdm[Any]",
) -> list[Path]:
    """Edit images of one size, and write each; returns the paths of the edited images."""
    from PIL import Image

    from distill.zero_shot import edit
    from inference.results import Wanted
    from synth.images.encoding import gif_bytes, read_photo
    from synth.images.writer import encode_image, suffix_for

    frames: list[list[Image.Image]] = []
    photos = [read_photo(image.path) for image in batch]
    images = [Image.fromarray(photo.on_ground()) for photo in photos]
    watch = _watch(images, settings, results, frames, bar)
    edited = edit(teacher, photos, *prompts, settings, watch)
    written = []
    for place, image in enumerate(batch):
        own = (f"-{image.path.suffix[1:].lower()}",)
        if series:
            last = Image.fromarray(edited.images[place].on_ground())
            shown = [images[place], *(frame[place] for frame in frames), last]
            times = [600, *[120] * (len(shown) - 2), 1500]  # ms
            wanted = Wanted(image.path, "edit series", key)
            with results.put(wanted, results.choose(wanted, image.name, "_series", ".gif", own)) as part:
                part.write_bytes(gif_bytes(shown, times))
        wanted = Wanted(image.path, "edit", key)
        path = results.choose(wanted, image.name, "_edited", suffix_for(image.path), own)
        with results.put(wanted, path) as part:
            part.write_bytes(encode_image(edited.images[place]))
        written.append(path)
    return written


def _watch(
    images: "list[Image.Image]",
    settings: EditSettings,
    results: "Results",
    frames: "list[list[Image.Image]]",
    bar: "tqdm[Any]",
) -> "Callable[[Progress], None]":
    """Make a callback for the progress bar, the live preview and the frames of the series."""
    import numpy as np
    import torch

    from inference.results import Wanted
    from synth.images.encoding import png_bytes, tile_images

    every = max(1, settings.iterations // _FRAMES)
    wanted = Wanted(None, "edit preview")
    preview = results.choose(wanted, Path("preview"), "", ".png")

    def watch(progress: "Progress") -> None:
        bar.set_postfix(update=f"{float(torch.mean(progress.update_norm)):.3f}")
        bar.update(len(images))
        if progress.iteration % every == 0:
            frames.append(progress.images())
            rows = ([np.asarray(image.convert("RGB")) for image in row] for row in (images, frames[-1]))
            with results.put(wanted, preview) as part:
                part.write_bytes(png_bytes(tile_images(rows)))

    return watch


def find_images(paths: Sequence[Path]) -> list[Path]:
    """List files as given, and the images in and below folders, but for results of earlier calls.

    Raises:
        ImageInputError: where there is no image, or a folder that cannot be read.
    """
    from inference.inputs import list_inputs

    inputs = list_inputs(paths)
    if inputs.problems:
        raise ImageInputError(inputs.problems[0])
    if not inputs.images:
        raise ImageInputError(f"{paths[0]} has no images in it")
    return [image.path for image in inputs.images]


def _batches(images: "Sequence[Input]", outcome: "Outcome") -> "list[list[Input]]":
    """Group images of one size into small batches; what cannot be edited becomes a problem before any is."""
    from distill.zero_shot import check_size
    from synth.images.encoding import read_photo

    by_size: dict[tuple[int, int], list[Input]] = {}
    for image in images:
        try:
            photo = read_photo(image.path)
            check_size(*photo.size)
        except ImageInputError as error:
            message = str(error)
            known = message if str(image.path) in message else f"{image.path}: {message}"
            outcome.problems.append(known)
            continue
        outcome.notes += [f"{image.path}: {note}" for note in photo.notes]
        by_size.setdefault(photo.size, []).append(image)
    return [group[start : start + _BATCH] for group in by_size.values() for start in range(0, len(group), _BATCH)]
