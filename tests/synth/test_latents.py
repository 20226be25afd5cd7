"""Latents on disk: equal to the encoder's, never stale, and resumed after an interruption."""

from pathlib import Path

import numpy as np
import pytest
import torch
from agreement import assert_agrees
from small_datasets import painted, scenes

from synth.dataset import latents
from synth.dataset.building import synthesize
from synth.dataset.image_dataset import ImageDataset
from synth.pixels import to_float
from synth.teacher.teacher import Teacher

__all__ = ["painted"]  # a fixture


def test_latents_are_encoded_once(
    painted: Path, tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ImageDataset(painted)
    z = latents.encode(tiny_teacher, images, tmp_path, progress=False)
    assert z.shape == (7, 4, 8, 8) and z.dtype == torch.float32
    single = tiny_teacher.encode(to_float(torch.from_numpy(images.image(5)[None])))[0]
    assert_agrees(z[5], single)
    monkeypatch.setattr(Teacher, "encode", None)  # a second call needs no encoder
    assert torch.equal(latents.encode(tiny_teacher, images, tmp_path, progress=False), z)


def test_latents_belong_to_a_vae_and_a_dataset(
    painted: Path, tiny_teacher: Teacher, tiny_v_teacher: Teacher, tmp_path: Path
) -> None:
    """Another VAE, or a dataset that grew, gets a file of its own."""
    images = ImageDataset(painted)
    latents.encode(tiny_teacher, images, tmp_path, progress=False)
    latents.encode(tiny_v_teacher, images, tmp_path, progress=False)
    synthesize(tiny_teacher, scenes(count=8), tmp_path / "grown", progress=False)
    assert len(latents.encode(tiny_teacher, ImageDataset(tmp_path / "grown"), tmp_path, progress=False)) == 8
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_an_interrupted_encoding_resumes(
    painted: Path, tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "_BATCH", 2)
    monkeypatch.setattr(latents, "_SAVE_EVERY", 1)
    images = ImageDataset(painted)
    whole = latents.encode(tiny_teacher, images, tmp_path / "whole", progress=False)
    batch_sizes: list[int] = []
    encode = Teacher.encode

    def interrupted(self: Teacher, pixels: torch.Tensor) -> torch.Tensor:
        batch_sizes.append(len(pixels))
        if len(batch_sizes) == 3:
            raise KeyboardInterrupt
        return encode(self, pixels)

    monkeypatch.setattr(Teacher, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        latents.encode(tiny_teacher, images, tmp_path / "stopped", progress=False)
    assert not list((tmp_path / "stopped").glob("*.npy"))
    again = latents.encode(tiny_teacher, images, tmp_path / "stopped", progress=False)
    assert sum(batch_sizes[3:]) == 3  # four of seven were done
    assert np.array_equal(again, whole)
