"""What a run writes, against what the disks have free."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.settings import pixel_edits_of_an_image
from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from synth.errors import RunError
from synth.urls import is_url

if TYPE_CHECKING:
    from synth.teacher.teacher import Teacher

EXTRAS_FACTOR = 1.1  # the gallery and the rejects take a tenth of what the images take
_BYTES_PER_PIXEL = 1.6  # of a PNG: 0.4 MB at 512 px


@dataclass(frozen=True)
class Sizes:
    """Sizes on disk, in bytes."""

    image: float
    """One encoded image."""
    pixels: int
    """One image without compression."""
    latent: int
    """One image's latent, in float32."""
    student: int
    """All weights of the student, in float32."""
    learned: int
    """The weights that are trained, in float32: all of the student's, except with LoRA."""
    vae: int
    """The VAE's weights in float32, which every model file holds too."""


def sizes_of(teacher: "Teacher", recipe: Recipe, height: int, width: int, image_bytes: float | None = None) -> Sizes:
    """Count the sizes of a run's parts.

    Args:
        teacher: paints the dataset and teaches the student.
        recipe: its edits and settings.
        height: of an image, in pixels.
        width: of an image, in pixels.
        image_bytes: of an encoded image (default: what a PNG of that size takes).
    """
    from distill.training.untrained import num_weights

    factor = teacher.vae_scale_factor
    num_all, num_learned = num_weights(teacher, dict.fromkeys(recipe.edits, ""), recipe.training)
    return Sizes(
        image=_BYTES_PER_PIXEL * height * width if image_bytes is None else image_bytes,
        pixels=3 * height * width,
        latent=4 * teacher.latent_channels * (height // factor) * (width // factor),
        student=4 * num_all,
        learned=4 * num_learned,
        vae=4 * sum(weight.numel() for weight in teacher.vae.parameters()),
    )


def disk_of(recipe: Recipe, sizes: Sizes, num_images: int) -> int:
    """Estimate the bytes of the dataset, its latents and pairs, the checkpoints, the student and its model file."""
    pairs = 0
    if recipe.pixel.size != "none":  # uncompressed: the image, and what the student makes of it
        pairs = sizes.pixels * (1 + pixel_edits_of_an_image(recipe.pixel, len(recipe.edits)))
    images = num_images * (EXTRAS_FACTOR * sizes.image + sizes.latent + pairs)
    return round(images + checkpoints_of(recipe, sizes.student, sizes.learned) + 2 * sizes.student + sizes.vae)


def checkpoints_of(recipe: Recipe, student: int, learned: int) -> int:
    """Estimate the bytes of the kept checkpoints and one more, since a new one is written before an old one goes.

    Args:
        recipe: how the student is trained.
        student: bytes of all its weights.
        learned: bytes of the weights that are trained.
    """
    networks = 1 + (recipe.training.ema_decay > 0)  # the student and its moving average
    # Adam keeps two moments of each trained weight.
    return (recipe.training.keep_checkpoints + 1) * (networks * student + 2 * learned)


def check_disk(recipe: Recipe, teacher: "Teacher", run: RunFolder, data: str) -> str:
    """Compare what a run writes with what is free, on the disk of the run folder and on the dataset's.

    Args:
        recipe: with scenes that the teacher's defaults have completed.
        teacher: paints the dataset and teaches the student.
        run: the run folder, which may not be there yet.
        data: the dataset's folder or URL.

    Returns:
        What was found, for people.

    Raises:
        RunError: if a disk has no room.
    """
    size = (recipe.scenes and recipe.scenes.image_size) or teacher.defaults.image_size
    sizes = sizes_of(teacher, recipe, size, size)
    count = recipe.scenes.count if recipe.scenes is not None else 0
    painted = round(count * EXTRAS_FACTOR * sizes.image)
    training = disk_of(recipe, sizes, count) - painted  # latents and pairs lie in the run folder
    there = _size(run.path) - (_size(Path(run.dataset)) if Path(run.dataset).parent == run.path else 0)
    needs = [(run.path, training - there)]
    if not is_url(data):
        needs.append((Path(data), painted - _size(Path(data))))
    # Folders of one disk share what is free there.
    by_disk: dict[int, tuple[Path, int]] = {}
    for folder, num_bytes in needs:
        nearest = _nearest(folder)
        before = by_disk.get(os.stat(nearest).st_dev, (nearest, 0))[1]
        by_disk[os.stat(nearest).st_dev] = nearest, before + max(0, num_bytes)
    for nearest, num_bytes in by_disk.values():
        if num_bytes > (free := shutil.disk_usage(nearest).free):
            raise RunError(
                f"the run writes about {num_bytes / 1e9:.2g} GB, and the disk of {nearest} has {free / 1e9:.2g} GB "
                "free: make room, or set training.keep_checkpoints=1"
            )
    return f"about {sum(num for _, num in by_disk.values()) / 1e9:.2g} GB, and there is room"


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    whole = folder.absolute()
    return next(each for each in (whole, *whole.parents) if each.is_dir())


def _size(folder: Path) -> int:
    """The bytes of the files in a folder, 0 if there is none."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
