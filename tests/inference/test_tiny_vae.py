"""A small VAE instead of the teacher's in a model file: accepted if it shares the teacher's latents, else refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from agreement import assert_same_pixels
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from small_runs import command, run_command
from tiny_model import noise

from inference.export.formats import read_metadata
from inference.runtime import Translator
from synth.teacher.teacher import Teacher


def tiny_vae(latent_channels: int = 4) -> AutoencoderTiny:
    torch.manual_seed(0)
    vae = AutoencoderTiny(
        latent_channels=latent_channels,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    vae.decoder.layers[-1].weight.data.mul_(30)  # a random one is so faint that every edit would be undone
    return vae


@pytest.fixture(scope="module")
def run(prefect_server: None, tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose teacher has a tiny VAE itself, so that another one with the same encoder fits."""
    folder = tmp_path_factory.mktemp("tiny")
    components = tiny_teacher.pipeline.components | {"vae": tiny_vae(), "requires_safety_checker": False}
    StableDiffusionPipeline(**components).save_pretrained(folder / "teacher")
    result = run_command(folder / "teacher", folder / "run", "scenes.filters.min_contrast=0", "training.steps=40")
    assert result.exit_code == 0, result.output
    return folder / "run"


def test_it_replaces_the_teachers_and_the_file_says_so(run: Path, tmp_path: Path) -> None:
    other = tiny_vae()
    for weight in other.decoder.parameters():
        weight.data.mul_(0.9)
    other.save_pretrained(tmp_path)
    model = run / "model.onnx"
    image = noise(64, 64)
    own = Translator.load(model, num_threads=1)
    edit = next(iter(own.edits))
    assert read_metadata(model)["vae"] == "teacher"

    (run / "evaluation.json").write_text("{}")  # the metrics of the present file
    result = command("export", run, "--vae", tmp_path)
    assert result.exit_code == 0, result.output
    assert "differs from PyTorch by" in result.stdout
    assert read_metadata(model)["vae"] == tmp_path.name, "no path of this machine travels"
    replaced = Translator.load(model, num_threads=1)
    assert np.array_equal(replaced(image, edit, 0), image)
    assert (replaced(image, edit, 10) != own(image, edit, 10)).any()
    assert "dropped the metrics of the previous file" in result.stdout and not (run / "evaluation.json").exists()
    assert "is up to date" in command("export", run).stdout, "the run remembers its VAE"
    other.decoder.layers[0].bias.data.add_(0.1)
    other.save_pretrained(tmp_path)
    assert "is up to date" not in command("export", run).stdout, "but this VAE has been trained since"

    assert command("export", run, "--vae", "teacher").exit_code == 0
    assert read_metadata(model)["vae"] == "teacher"
    assert_same_pixels(Translator.load(model, num_threads=1)(image, edit, 10), own(image, edit, 10))


def test_one_of_other_latents_is_refused(finished: Path, tmp_path: Path) -> None:
    before = (finished / "model.onnx").read_bytes()
    for name, vae in {"untrained": tiny_vae(), "other channels": tiny_vae(12)}.items():
        vae.save_pretrained(tmp_path / name)
    for folder, message in {
        tmp_path / "untrained": "are not those of",
        tmp_path / "other channels": "makes latents of 12 x 8 x 8",
        tmp_path / "none": "cannot be opened as an AutoencoderTiny",
    }.items():
        result = command("export", finished, "--vae", folder)
        assert result.exit_code == 2
        assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert (finished / "model.onnx").read_bytes() == before
