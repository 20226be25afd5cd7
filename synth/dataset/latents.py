"""Images to latents, once: training reads them from a memory-mapped file and never touches a pixel."""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from synth.dataset.image_dataset import ImageDataset
from synth.errors import DatasetError
from synth.files import write_text
from synth.pixels import to_float
from synth.state import read_json, reading
from synth.teacher.teacher import Teacher

_BATCH = 8
_SAVE_EVERY = 64  # batches


def encode(teacher: Teacher, painted: ImageDataset, folder: Path, progress: bool = True) -> Tensor:
    """All images through the VAE's encoder: the posterior's mean, scaled as the teacher's latents are.

    The result is kept in `folder` under a name made of the teacher's fingerprint and the data's, so that latents of
    another VAE, or of a set that was changed or grew, are never read. An encoding that was stopped goes on.

    Args:
        teacher: whose VAE.
        painted: M images of one size.
        folder: of the cache, made if need be.
        progress: show a bar.

    Returns:
        float32 (M, C, h, w) on the CPU, mapped from the file: what is not used takes no memory.

    Raises:
        DatasetError: if the images differ in size, or the size is no multiple of the VAE's factor.
    """
    height, width, _ = painted.image(0).shape
    factor = teacher.vae_scale_factor
    if height % factor or width % factor:
        raise DatasetError(
            f"the images are {width} x {height}, and {teacher.name} needs multiples of {factor} pixels"
        )
    key = hashlib.sha256(f"{teacher.fingerprint} {painted.fingerprint}".encode()).hexdigest()[:16]
    file = folder / f"{key}.npy"
    shape = (len(painted), teacher.latent_channels, height // factor, width // factor)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _encode_into(file, teacher, painted, shape, progress)
    with reading(file, DatasetError, "delete it, and the images are encoded anew"):
        latents = np.load(file, mmap_mode="c")  # copy-on-write: torch wants to be able to write
        if latents.shape != shape or latents.dtype != np.float32:
            raise ValueError(f"it holds {latents.dtype} {latents.shape}, not float32 {shape}")
    return torch.from_numpy(latents)


def _encode_into(file: Path, teacher: Teacher, painted: ImageDataset, shape: tuple[int, ...], progress: bool) -> None:
    part, count = file.with_suffix(".part"), file.with_suffix(".json")
    done = 0
    if part.exists() and count.exists():
        done = read_json(count, Annotated[int, Field(ge=0)], DatasetError, "delete it, and the encoding starts anew")
    with reading(part, DatasetError, "delete it, and the encoding starts anew"):
        latents = np.lib.format.open_memmap(part, "r+" if done else "w+", np.float32, shape)
        if latents.shape != shape or latents.dtype != np.float32:
            raise ValueError(f"it holds {latents.dtype} {latents.shape}, not float32 {shape}")
    size = painted.image(0).shape
    starts = range(done, len(painted), _BATCH)
    for turn, start in enumerate(tqdm(starts, desc="encoding", unit="batch", disable=not progress), start=1):
        images = [painted.image(index) for index in range(start, min(start + _BATCH, len(painted)))]
        for offset, image in enumerate(images):
            if image.shape != size:
                found, first = (f"{shape[1]} x {shape[0]}" for shape in (image.shape, size))
                raise DatasetError(f"image {start + offset} is {found} but image 0 {first}: all must have one size")
        pixels = to_float(torch.from_numpy(np.stack(images)))  # uint8 (n, H, W, 3) -> float32 (n, 3, H, W)
        latents[start : start + len(images)] = teacher.encode(pixels).float().cpu().numpy()
        if turn % _SAVE_EVERY == 0:
            latents.flush()
            write_text(count, json.dumps(start + len(images)))
    latents.flush()
    os.replace(part, file)
    count.unlink(missing_ok=True)
