"""What a run writes, against what the disks have free."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flows.config.schema import Recipe
from flows.planning.estimates import EXTRAS_FACTOR, Sizes, disk_of
from flows.run.folder import RunFolder
from synth.errors import RunError
from synth.urls import is_url

if TYPE_CHECKING:
    from synth.teacher.teacher import Teacher

_BYTES_PER_PIXEL = 1.6  # of a PNG: 0.4 MB at 512 px


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
    from distill.students import num_weights

    size = (recipe.scenes and recipe.scenes.image_size) or teacher.defaults.image_size
    num_all, num_learned = num_weights(teacher, dict.fromkeys(recipe.edits, ""), recipe.training)
    sizes = Sizes(
        image=_BYTES_PER_PIXEL * size**2,
        pixels=3 * size**2,
        latent=4 * teacher.latent_channels * (size // teacher.vae_scale_factor) ** 2,
        student=4 * num_all,
        learned=4 * num_learned,
        vae=4 * sum(weight.numel() for weight in teacher.vae.parameters()),
    )
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
