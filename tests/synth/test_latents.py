"""Latents on disk: the encoder's own, never stale, and an encoding that was stopped goes on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from agreement import assert_agrees
from test_dataset import painted, scenes

from synth.dataset import latents
from synth.dataset.building import synthesize
from synth.dataset.image_dataset import ImageDataset
from synth.pixels import to_float
from synth.teacher.teacher import Teacher

__all__ = ["painted"]  # a fixture


def test_they_are_the_encoder_s_own_and_read_from_disk(
    painted: Path, tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ImageDataset(painted)
    z = latents.encode(tiny_teacher, images, tmp_path, progress=False)
    assert z.shape == (7, 4, 8, 8) and z.dtype == torch.float32
    alone = tiny_teacher.encode(to_float(torch.from_numpy(images.image(5)[None])))[0]
    assert_agrees(z[5], alone)
    monkeypatch.setattr(Teacher, "encode", None)  # a second call needs no encoder
    assert torch.equal(latents.encode(tiny_teacher, images, tmp_path, progress=False), z)


def test_another_vae_or_another_set_has_latents_of_its_own(
    painted: Path, tiny_teacher: Teacher, tiny_v_teacher: Teacher, tmp_path: Path
) -> None:
    images = ImageDataset(painted)
    latents.encode(tiny_teacher, images, tmp_path, progress=False)
    latents.encode(tiny_v_teacher, images, tmp_path, progress=False)
    synthesize(tiny_teacher, scenes(count=8), tmp_path / "grown", progress=False)
    assert len(latents.encode(tiny_teacher, ImageDataset(tmp_path / "grown"), tmp_path, progress=False)) == 8
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_an_encoding_that_was_stopped_goes_on(
    painted: Path, tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "_BATCH", 2)
    monkeypatch.setattr(latents, "_SAVE_EVERY", 1)
    images = ImageDataset(painted)
    whole = latents.encode(tiny_teacher, images, tmp_path / "whole", progress=False)
    seen: list[int] = []
    encode = Teacher.encode

    def stopping(self: Teacher, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return encode(self, pixels)

    monkeypatch.setattr(Teacher, "encode", stopping)
    with pytest.raises(KeyboardInterrupt):
        latents.encode(tiny_teacher, images, tmp_path / "stopped", progress=False)
    assert not list((tmp_path / "stopped").glob("*.npy"))
    again = latents.encode(tiny_teacher, images, tmp_path / "stopped", progress=False)
    assert sum(seen[3:]) == 3  # four of seven were there
    assert np.array_equal(again, whole)
