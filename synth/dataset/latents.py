"""Encodes images into latents once. Training reads the latents from a memory-mapped file, and no pixels."""

import hashlib
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from synth.dataset.image_dataset import ImageDataset
from synth.errors import DatasetError
from synth.files import put, write_text
from synth.pixels import to_float
from synth.state import read_array, read_json, reading
from synth.teacher.teacher import Teacher

_BATCH = 8  # images
_SAVE_EVERY = 64  # batches
_RESTART = "delete it, and the encoding will start again"


def encode(teacher: Teacher, images: ImageDataset, folder: Path, progress: bool = True) -> Tensor:
    """Encode all images with the teacher's VAE: the posterior's mean, scaled like the teacher's latents.

    The result is cached in `folder` under a hash of the fingerprints of the teacher and of the dataset's pixels, so
    latents of another VAE, or of images that changed or became more, are never read. An interrupted encoding resumes.

    Args:
        teacher: the owner of the VAE.
        images: M images of one size.
        folder: the cache; created if it does not exist.
        progress: whether to show a bar.

    Returns:
        float32 (M, C, h, w) on the CPU, mapped from the file: unused latents take no memory.

    Raises:
        DatasetError: if the images differ in size, the VAE does not take their size, or the cache is damaged.
    """
    height, width, _ = images.image(0).shape
    factor = teacher.vae_scale_factor
    if height % factor or width % factor:
        raise DatasetError(
            f"the images are {width} x {height}, and {teacher.name} needs multiples of {factor} pixels"
        )
    key = hashlib.sha256(f"{teacher.fingerprint} {images.pixels_fingerprint}".encode()).hexdigest()[:16]
    file = folder / f"{key}.npy"
    shape = (len(images), teacher.latent_channels, height // factor, width // factor)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _encode_into(file, teacher, images, shape, progress)
    # Copy-on-write, since torch takes no read-only arrays.
    remedy = "delete it, and the images will be encoded again"
    latents = read_array(file, np.float32, shape, DatasetError, remedy, mmap_mode="c")
    return torch.from_numpy(latents)


def _encode_into(file: Path, teacher: Teacher, images: ImageDataset, shape: tuple[int, ...], progress: bool) -> None:
    """Encode all images into a file, which gets its name when it is complete."""
    part = file.with_suffix(".part")
    count = file.with_suffix(".json")  # how many images of `part` are done
    done = 0
    if part.exists() and count.exists():
        done = read_json(count, Annotated[int, Field(ge=0)], DatasetError, _RESTART)
    with reading(part, DatasetError, _RESTART):
        latents = np.lib.format.open_memmap(part, "r+" if done else "w+", np.float32, shape)
        if latents.shape != shape or latents.dtype != np.float32:
            raise ValueError(f"it holds {latents.dtype} {latents.shape}, not float32 {shape}")
    size = images.image(0).shape
    starts = tqdm(range(done, len(images), _BATCH), desc="encoding", unit="batch", leave=False, disable=not progress)
    batches = images.batches(range(done, len(images)), _BATCH)
    for turn, (start, batch) in enumerate(zip(starts, batches, strict=True), start=1):
        for offset, image in enumerate(batch):
            if image.shape != size:
                found, first = (f"{shape[1]} x {shape[0]}" for shape in (image.shape, size))
                raise DatasetError(f"image {start + offset} is {found} but image 0 {first}: all must have one size")
        pixels = to_float(torch.from_numpy(np.stack(batch)))  # uint8 (n, H, W, 3) -> float32 (n, 3, H, W)
        latents[start : start + len(batch)] = teacher.encode(pixels).float().cpu().numpy()
        if turn % _SAVE_EVERY == 0:
            latents.flush()  # before the count, which must not be ahead of the file
            write_text(count, json.dumps(start + len(batch)))
    latents.flush()
    del latents  # Windows renames no file that is mapped
    put(part, file)
    count.unlink(missing_ok=True)
