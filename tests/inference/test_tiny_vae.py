"""A small VAE instead of the teacher's in a model file: accepted if it shares the teacher's latents, else refused."""

from pathlib import Path

import numpy as np
import pytest
from agreement import assert_same_pixels
from small_runs import command, run_command
from tiny_model import noise
from tiny_pipelines import light_vae

from inference.export import files
from inference.export.formats import read_metadata
from inference.runtime import Translator


@pytest.fixture(scope="module")
def run(prefect_server: None, light_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose teacher has a tiny VAE itself, so that another one with the same encoder fits."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    result = run_command(light_sd_folder, folder, "training.steps=40")
    assert result.exit_code == 0, result.output
    return folder


def test_it_replaces_the_teachers_and_the_file_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = light_vae()
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
    started: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(files, "export_files", lambda *given: started.append(given) or ())  # it takes long
        assert "is up to date" not in command("export", run).stdout
    assert len(started) == 1, "but this VAE has been trained since"

    assert command("export", run, "--vae", "teacher").exit_code == 0
    assert read_metadata(model)["vae"] == "teacher"
    assert_same_pixels(Translator.load(model, num_threads=1)(image, edit, 10), own(image, edit, 10))


def test_one_of_other_latents_is_refused(finished: Path, tmp_path: Path) -> None:
    before = (finished / "model.onnx").read_bytes()
    for name, vae in {"untrained": light_vae(), "other channels": light_vae(12)}.items():
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
