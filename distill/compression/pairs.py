"""What a pixel network learns from: the dataset's images, and what the student makes of each, once and for all.

    FOLDER/<key>/00000.npy    uint8 (250, 1 + K, H, W, 3): images, each before its K edits

A shard appears whole or not at all, so an interrupted work resumes at the first that is missing. The key covers all
that the pixels follow from: pairs of another student, or of images that changed, are never read.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.composition import change_of_pixels
from distill.settings import PixelSettings, pixel_edits_of_an_image
from distill.students import Student
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.latents import encode
from synth.errors import TrainingError
from synth.files import make_folder, remove_folder, remove_partials, whole_file
from synth.pixels import to_float, to_uint8
from synth.seeds import derive_seed
from synth.state import read_array
from synth.teacher.teacher import Teacher

SHARD_SIZE = 250  # images: what a killed process repeats at most
_BATCH = 4  # images decoded at once
_VERSION = 2  # of what this module computes; raise it with each change of the pixels


ChangeOfPixels = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""What an edit adds to an image, called as `distill.composition.change_of_pixels` is."""


class Bar(Protocol):
    """A progress bar, as tqdm's and the flows' are."""

    def update(self, n: int = 1) -> object:
        """Count `n` more images as done."""


class PixelPairs:
    """M images and K edits of each, on disk: pair number m K + k is image m and its kth drawn edit."""

    def __init__(self, shards: list[NDArray[np.uint8]], edits: list[list[int]]) -> None:
        self._shards = shards
        self.edits = edits  # M x K, numbers of edits

    def __len__(self) -> int:
        return sum(len(own) for own in self.edits)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of all images, in pixels."""
        height, width = self._shards[0].shape[2:4]
        return height, width

    @property
    def edits_an_image(self) -> int:
        """K."""
        return len(self.edits[0])

    def pair(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int]:
        """Return an image, uint8 (H, W, 3), what the student made of it, of the same shape, and the edit's number."""
        index, place = divmod(number, self.edits_an_image)
        row = self._shards[index // SHARD_SIZE][index % SHARD_SIZE]
        return row[0], row[1 + place], self.edits[index][place]


def make_pairs(
    teacher: Teacher,
    student: Student,
    identity: str,
    dataset: ImageDataset,
    settings: PixelSettings,
    latents: Path,
    folder: Path,
    bar: Bar | None = None,
    change: ChangeOfPixels = change_of_pixels,
) -> PixelPairs:
    """Take every image through its edits, but for those that are on disk.

    The encoder's latents are those of the student's training, and the plain decode serves all edits of an image.

    Args:
        teacher: its VAE encodes and decodes.
        student: on the teacher's device.
        identity: tells this student from any other.
        dataset: M images of one size.
        settings: how many edits an image gets, and the seed that draws them.
        latents: where the images' latents are cached.
        folder: where the pairs are kept, which are all made by one `change`; created if it does not exist.
        bar: counts images, those on disk included.
        change: what the student's latents change of an image.

    Raises:
        TrainingError: if the dataset is empty, or a shard is damaged.
        DatasetError: for images that the VAE cannot take.
    """
    if not len(dataset):
        raise TrainingError(
            "the dataset is empty, so there is nothing to learn from: run `distillery synthesize` first"
        )
    num_edits = len(student.edits)
    edits = [draw_edits(settings, index, num_edits) for index in range(len(dataset))]  # M x K
    place = folder / _key(teacher, identity, dataset, settings)
    make_folder(place)
    remove_partials(place)
    height, width, _ = dataset.image(0).shape
    z_hat = None
    shards = []
    for number, start in enumerate(range(0, len(dataset), SHARD_SIZE)):
        indices = range(start, min(start + SHARD_SIZE, len(dataset)))
        file = place / f"{number:05d}.npy"
        if not file.exists():
            z_hat = encode(teacher, dataset, latents, progress=bar is not None) if z_hat is None else z_hat
            rows = _translate(teacher, student, dataset, z_hat, edits, indices, bar, change)
            with whole_file(file) as part, part.open("wb") as out:
                np.save(out, np.stack(list(rows)))
        elif bar is not None:
            bar.update(len(indices))
        shape = (len(indices), 1 + len(edits[0]), height, width, 3)
        remedy = f"delete {file}, and it is made again"
        shards.append(read_array(file, np.uint8, shape, TrainingError, remedy, mmap_mode="r"))
    _remove_former(folder, place)
    return PixelPairs(shards, edits)


def draw_edits(settings: PixelSettings, index: int, num_known: int) -> list[int]:
    """Choose the edits that the image of this index is taken through, as their numbers, ascending."""
    count = pixel_edits_of_an_image(settings, num_known)
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "pixel edits", index))
    return sorted(torch.randperm(num_known, generator=generator)[:count].tolist())


def _translate(
    teacher: Teacher,
    student: Student,
    dataset: ImageDataset,
    latents: Tensor,
    edits: list[list[int]],
    indices: range,
    bar: Bar | None,
    change: ChangeOfPixels,
) -> Iterator[NDArray[np.uint8]]:
    """Yield for each image itself and its edits, uint8 (1 + K, H, W, 3), as the student's model file makes them."""
    starts = range(indices.start, indices.stop, _BATCH)
    for start, batch in zip(starts, dataset.batches(indices, _BATCH), strict=True):
        chosen = range(start, start + len(batch))
        images = np.stack(batch)  # (B, H, W, 3)
        x = to_float(torch.from_numpy(images)).to(teacher.device)  # (B, 3, H, W)
        rows = [images]
        with torch.no_grad():
            z_hat = latents[chosen.start : chosen.stop].to(teacher.device)  # (B, C, h, w)
            plain = teacher.decode(z_hat).float()  # (B, 3, H, W)
            for place in range(len(edits[0])):
                edit = torch.tensor([edits[index][place] for index in chosen], device=teacher.device)  # (B,)
                edited = teacher.decode(z_hat + student(z_hat, edit)).float()  # (B, 3, H, W)
                rows.append(to_uint8(x + change(x, edited, plain, teacher.vae_scale_factor)))
        yield from np.stack(rows, axis=1)  # B of (1 + K, H, W, 3)
        if bar is not None:
            bar.update(len(chosen))


def _key(teacher: Teacher, identity: str, dataset: ImageDataset, settings: PixelSettings) -> str:
    """A name for all that the pairs' pixels follow from."""
    parts = [_VERSION, teacher.fingerprint, identity, dataset.pixels_fingerprint]
    parts += [settings.seed, settings.edits_per_image]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _remove_former(folder: Path, place: Path) -> None:
    """Remove the pairs of former students: they take gigabytes, and nothing reads them again."""
    for entry in folder.iterdir():
        if entry != place and entry.is_dir() and re.fullmatch(r"[0-9a-f]{16}", entry.name):
            remove_folder(entry)
