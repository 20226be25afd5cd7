"""The shipped miniature: any diffusers opens it, its readers read, its card tells its figures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from synth.miniature.score import BARS
from synth.pixels import to_float, to_uint8
from synth.settings import TeacherSettings
from synth.teacher.hub import MINIATURE
from synth.teacher.teacher import Teacher
from synth.world.readers import FactorReader, labels_of
from synth.world.scenes import MASK_OF, render, sample_scene


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher.load(TeacherSettings(id="miniature", device="cpu"))


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    return np.stack([render(sample_scene("test", index)).image for index in range(48)])


def test_it_is_small_and_needs_no_pickle() -> None:
    files = [path for path in MINIATURE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 42 * 2**20
    assert max(path.stat().st_size for path in files) < 16 * 2**20
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".png", ".txt"}


def test_its_files_name_no_machine() -> None:
    for path in MINIATURE.rglob("*.json"):
        assert "_name_or_path" not in path.read_text(), path


def test_plain_diffusers_paints_what_it_is_told() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(MINIATURE)
    pipeline.set_progress_bar_config(disable=True)
    colors = ["red", "blue", "green", "purple", "black", "yellow"]
    prompts = [f"a {color} fabric sofa in a living room with white walls and a wooden floor" for color in colors]
    generators = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
    painted = pipeline(
        prompts, num_inference_steps=8, guidance_scale=4.0, generator=generators, output_type="np"
    ).images
    assert painted.shape == (6, 128, 128, 3)
    answers = FactorReader.load().read((painted * 255).round().astype(np.uint8))
    assert sum(answer == color for answer, color in zip(answers["color"], colors, strict=True)) >= 4
    assert set(answers["kind"]) == {"room"}


def test_its_latents_are_of_unit_variance_and_come_back(teacher: Teacher, drawn: np.ndarray) -> None:
    x = to_float(torch.from_numpy(drawn))
    z = teacher.encode(x)
    assert z.shape == (48, 12, 16, 16)
    assert 0.8 < float(z.std()) < 1.2 and abs(float(z.mean())) < 0.15
    error = (to_uint8(teacher.decode(z)).astype(float) - drawn) / 255
    assert float(np.mean(-10 * np.log10((error**2).mean(axis=(1, 2, 3))))) > BARS["vae_psnr"]


def test_the_readers_read_unseen_drawings(teacher: Teacher, drawn: np.ndarray) -> None:
    """The readers read unseen drawings, and what the VAE reconstructs of them."""
    reader = FactorReader.load()
    through = to_uint8(teacher.decode(teacher.encode(to_float(torch.from_numpy(drawn)))))
    for images, least in ((drawn, 0.97), (through, 0.93)):
        answers = reader.read(images)
        wanted = [labels_of(sample_scene("test", index)) for index in range(48)]
        right = [
            answers[factor][index] == label[factor]
            for factor in MASK_OF
            for index, label in enumerate(wanted)
            if label[factor] != "?"
        ]
        assert np.mean(right) >= least, factor_errors(answers, wanted)
    noise = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), dtype=np.uint8)
    assert "red" not in reader.read(noise)["color"]


def factor_errors(answers: dict[str, list[str]], wanted: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    return [
        (factor, label[factor], answers[factor][index])
        for factor in MASK_OF
        for index, label in enumerate(wanted)
        if label[factor] not in ("?", answers[factor][index])
    ]


def test_the_card_has_the_metrics_beside_the_bars() -> None:
    card = (Path(MINIATURE) / "README.md").read_text()
    for name in BARS:
        assert f"| {name} | " in card
    assert "license: apache-2.0" in card and "no evidence about any other" in card.replace("\n", " ")
    defaults = json.loads((Path(MINIATURE) / "distillery.json").read_text())
    assert defaults["image_size"] == 128
