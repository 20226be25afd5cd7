"""The judges of photographs, on small random networks of the very classes: what must hold whatever they know."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_clip import tiny_tokenizer
from tiny_judges import save_tiny_clip, save_tiny_dino
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from distill.evaluation.similarity import Clip, Lpips, Structure
from synth.errors import TeacherError

RNG = np.random.default_rng(0)
BEFORE = RNG.integers(0, 256, (3, 40, 40, 3)).astype(np.uint8)
AFTER = np.where(np.arange(40)[None, None, :, None] < 20, BEFORE, 255 - BEFORE).astype(np.uint8)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_dino(tmp_path_factory.mktemp("dino"))


def test_clip_scores_are_cosines(clip_folder: Path) -> None:
    clip = Clip(str(clip_folder))
    model = CLIPModel.from_pretrained(clip_folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder)(images=list(AFTER), return_tensors="pt").pixel_values
    words = tiny_tokenizer()(["a red sofa"], return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=pixels, **words)
    want = (output.image_embeds @ output.text_embeds.T)[:, 0].numpy()
    np.testing.assert_allclose(clip.text_score(AFTER, "a red sofa"), want, atol=1e-5)


def test_clips_direction_turns_with_the_edit(clip_folder: Path) -> None:
    clip = Clip(str(clip_folder))
    there = clip.directional(BEFORE, AFTER, "a blue sofa", "a red sofa")
    assert there.shape == (3,) and (np.abs(there) <= 1.0001).all() and there.any()
    np.testing.assert_allclose(clip.directional(AFTER, BEFORE, "a blue sofa", "a red sofa"), -there, atol=1e-5)
    np.testing.assert_allclose(clip.directional(BEFORE, AFTER, "a red sofa", "a blue sofa"), -there, atol=1e-5)
    assert not clip.directional(BEFORE, BEFORE, "a blue sofa", "a red sofa").any()


def test_structure_is_where_and_not_what(dino_folder: Path) -> None:
    structure = Structure(str(dino_folder))
    assert not structure.distance(BEFORE, BEFORE).any()
    assert (structure.distance(BEFORE, AFTER) > 0).all()
    np.testing.assert_allclose(structure.distance(BEFORE, AFTER), structure.distance(AFTER, BEFORE))
    one = structure.distance(BEFORE[:1], AFTER[:1])
    np.testing.assert_allclose(structure.distance(BEFORE, AFTER)[:1], one, rtol=1e-4)


def test_what_cannot_be_opened_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for judge, kind in ((Clip, "CLIP"), (Structure, "DINO")):
        with pytest.raises(TeacherError, match=f"cannot be opened as a {kind} model .*: name a folder or a Hub id"):
            judge(str(tmp_path))
    for package in ("torchvision", "torchmetrics"):
        with monkeypatch.context() as without:
            without.setattr("torchmetrics.image.lpip._TORCHVISION_AVAILABLE", False)
            without.setitem(sys.modules, package, None)
            with pytest.raises(TeacherError, match=rf'{package} is not .*: pip install "dds-distillery\[metrics\]"'):
                Lpips()
