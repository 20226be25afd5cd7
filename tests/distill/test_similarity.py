"""The judges of photographs, on small random networks of the very classes: what must hold whatever they know."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_clip import tiny_clip_config, tiny_tokenizer
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, ViTConfig, ViTModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from distill.evaluation.similarity import Clip, Lpips, Structure
from synth.errors import TeacherError

RNG = np.random.default_rng(0)
BEFORE = RNG.integers(0, 256, (3, 40, 40, 3)).astype(np.uint8)
AFTER = np.where(np.arange(40)[None, None, :, None] < 20, BEFORE, 255 - BEFORE).astype(np.uint8)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    text = tiny_clip_config(tokenizer)
    CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": 32}
    CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=32
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


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
    monkeypatch.setitem(__import__("sys").modules, "lpips", None)
    with pytest.raises(TeacherError, match=r'pip install "dds-distillery\[metrics\]"'):
        Lpips()
