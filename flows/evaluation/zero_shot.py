"""Zero-shot edits of image files: a teacher and a prompt, no training."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from distill.settings import EditSettings
from synth.errors import ImageInputError, printable
from synth.files import write_bytes

if TYPE_CHECKING:
    from PIL import Image

    from distill.optimization import Progress
    from synth.teacher.teacher import Teacher

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
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
) -> list[Path]:
    """Edit image files, or all images in folders, and write `NAME_edited` for each into `out`, in its own format.

    Meanwhile `out/preview.png` shows the present state of the images being edited.

    Args:
        teacher: the diffusion model.
        paths: image files and folders.
        prompt: what the edited images should show.
        source_prompt: what the images show.
        settings: of the optimization.
        out: an existing folder.
        series: also write `NAME_series.gif`, from the input to the result.

    Returns:
        The paths of the edited images.

    Raises:
        ImageInputError: for a file that is not an image or has an absurd size, before anything is edited.
        TeacherError: if the teacher cannot score, or a prompt is too long for it.
    """
    from PIL import Image

    from distill.zero_shot import edit
    from synth.images.encoding import gif_bytes, read_photo
    from synth.images.writer import encode_image, suffix_for

    batches = _batches(find_images(paths))
    teacher.check_prompts([prompt, source_prompt])
    written = []
    num_images = sum(len(batch) for batch in batches)
    with tqdm(total=num_images * settings.iterations, desc="editing", unit="iteration") as bar:
        for batch in batches:
            frames: list[list[Image.Image]] = []
            photos = [read_photo(path) for path in batch]
            for path, photo in zip(batch, photos, strict=True):
                for note in photo.notes:
                    tqdm.write(printable(f"note: {path}: {note}"), file=sys.stderr)
            images = [Image.fromarray(photo.on_ground()) for photo in photos]
            watch = _watch(images, settings, out, frames, bar)
            edited = edit(teacher, photos, prompt, source_prompt, settings, watch)
            for place, path in enumerate(batch):
                target = out / f"{path.stem}_edited{suffix_for(path)}"
                write_bytes(target, encode_image(edited.images[place]))
                written.append(target)
                if series:
                    last = Image.fromarray(edited.images[place].on_ground())
                    shown = [images[place], *(frame[place] for frame in frames), last]
                    times = [600, *[120] * (len(shown) - 2), 1500]  # ms
                    write_bytes(out / f"{path.stem}_series.gif", gif_bytes(shown, times))
    return written


def _watch(
    images: "list[Image.Image]",
    settings: EditSettings,
    out: Path,
    frames: "list[list[Image.Image]]",
    bar: "tqdm[Any]",
) -> "Callable[[Progress], None]":
    """Make a callback for the progress bar, the live preview and the frames of the series."""
    import numpy as np
    import torch

    from synth.images.encoding import png_bytes, tile_images

    every = max(1, settings.iterations // _FRAMES)

    def watch(progress: "Progress") -> None:
        bar.set_postfix(update=f"{float(torch.mean(progress.update_norm)):.3f}")
        bar.update(len(images))
        if progress.iteration % every == 0:
            frames.append(progress.images())
            rows = ([np.asarray(image.convert("RGB")) for image in row] for row in (images, frames[-1]))
            write_bytes(out / "preview.png", png_bytes(tile_images(rows)))

    return watch


def find_images(paths: Sequence[Path]) -> list[Path]:
    """List files as given, and the images in folders.

    Raises:
        ImageInputError: for a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        found = (
            sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES) if path.is_dir() else [path]
        )
        if not found:
            raise ImageInputError(f"{path} has no images in it")
        files += found
    return files


def _batches(files: Sequence[Path]) -> list[list[Path]]:
    """Group images of one size into small batches.

    Raises:
        ImageInputError: for an image that cannot be edited, before hours go into the others.
    """
    from distill.zero_shot import check_size
    from synth.images.encoding import read_photo

    by_size: dict[tuple[int, int], list[Path]] = {}
    stems: set[str] = set()
    for file in files:
        size = read_photo(file).size
        try:
            check_size(*size)
        except ImageInputError as error:
            raise ImageInputError(f"{file}: {error}") from None
        if file.stem in stems:
            raise ImageInputError(f"two of the images are called {file.stem}: edit them into two folders")
        stems.add(file.stem)
        by_size.setdefault(size, []).append(file)
    return [group[start : start + _BATCH] for group in by_size.values() for start in range(0, len(group), _BATCH)]
