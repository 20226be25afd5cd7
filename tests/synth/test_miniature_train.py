"""Training the miniature: what a resumed run must find again, and the folder that it ends in."""

import argparse
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import assert_agrees
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTokenizer

from synth.errors import TrainingError
from synth.miniature import models, stage, vae_training
from synth.miniature.assembly import assemble
from synth.miniature.card import write_card
from synth.miniature.drawing import draw
from synth.miniature.reader_training import accuracy, confusion, pair, reader_images, train_reader
from synth.miniature.score import BARS, kernel_distance, score
from synth.miniature.stage import TrainingStage
from synth.pixels import to_float
from synth.world.captions import captions
from synth.world.readers import HEADS, FactorNetwork, FactorReader
from synth.world.rooms import COLORS
from synth.world.scenes import render, sample_scene

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text for index in range(100) for text in captions(sample_scene("train", index), 4)]


def small_run(out: Path) -> tuple[TrainingStage, nn.Module]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 3, 3))
    return TrainingStage("small", out, nn.ModuleDict({"network": network}), 1.0, 1.0, 1e-2, CPU), network


def take_steps(run: TrainingStage, network: nn.Module, steps: range) -> None:
    for step in steps:
        images = torch.randn((2, 3, 9, 9), generator=torch.Generator().manual_seed(step))
        run.optimizer.zero_grad()
        network(images).square().mean().backward()
        run.optimizer.step()
        run.step += 1
        run._average()


def test_the_tokenizer_is_reproducible(texts: list[str], tmp_path: Path) -> None:
    """The tokenizer is the same every time and keeps unknown words."""
    first = models.build_tokenizer(texts, tmp_path / "a")
    assert models.build_tokenizer(texts, tmp_path / "b").get_vocab() == first.get_vocab()
    loaded = CLIPTokenizer.from_pretrained(tmp_path / "a")
    for text in ("", "a red leather sofa", "Zürich ☃ xylophone"):
        ids = loaded(text).input_ids
        assert ids == first(text).input_ids
        assert (ids[0], ids[-1]) == (loaded.bos_token_id, loaded.eos_token_id)
        assert loaded.decode(ids, skip_special_tokens=True) == text.lower()
    assert models.tokenize(loaded, ["a sofa", ""]).shape == (2, models.MAX_TOKENS)


def test_a_resumed_stage_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "layout", lambda device: torch.channels_last)  # as on a GPU
    whole, network = small_run(tmp_path / "none")
    take_steps(whole, network, range(6))
    tmp_path.joinpath("run").mkdir()
    first, network = small_run(tmp_path / "run")
    take_steps(first, network, range(3))
    first.save()
    second, network = small_run(tmp_path / "run")
    assert second.step == 3
    for parameter in second.parameters:  # a fused optimiser walks raw memory
        assert second.optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()
    take_steps(second, network, range(3, 6))
    for key, value in whole.networks.state_dict().items():
        assert torch.equal(value, second.networks.state_dict()[key])
        assert torch.equal(whole.average[key], second.average[key])


def test_whitening_changes_the_latents_and_not_the_images() -> None:
    torch.manual_seed(0)
    vae = models.build_vae().eval().requires_grad_(False)
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    x = to_float(images)
    with torch.no_grad():
        before = vae.encode(x).latent_dist
        decoded = vae.decode(before.mean).sample
        sigma = before.mean.std(dim=(0, 2, 3))
        vae_training.whiten(vae, images, CPU)
        after = vae.encode(x).latent_dist
        assert_agrees(vae.decode(after.mean).sample, decoded)
    torch.testing.assert_close(after.mean.mean(dim=(0, 2, 3)), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(after.mean.std(dim=(0, 2, 3)), torch.ones(12), atol=1e-4, rtol=0)
    assert_agrees(after.std * sigma[:, None, None], before.std)


@pytest.fixture(scope="module")
def trained(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of networks that were never trained."""
    out = tmp_path_factory.mktemp("run")
    draw(out, 4)
    tokenizer = models.build_tokenizer(texts, out / "tokenizer")
    networks: dict[str, dict[str, Any]] = {
        "vae": {"vae": models.build_vae()},
        "unet": {"unet": models.build_unet(), "text_encoder": models.build_text_encoder(tokenizer)},
    }
    for name, parts in networks.items():
        TrainingStage(name, out, nn.ModuleDict(parts), 1.0, 1.0, 1e-3, CPU).save()
    return out


def test_plain_diffusers_opens_the_folder_and_paints(trained: Path, tmp_path: Path) -> None:
    vae_training.encode(trained, CPU)
    assemble(trained, tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert max(sizes) < 16 * 2**20
    assert sum(sizes) < 40 * 2**20
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.text_encoder.dtype == pipeline.unet.dtype == pipeline.vae.dtype == torch.float32
    painted = pipeline("a red leather sofa", num_inference_steps=2, output_type="np").images
    assert painted.shape == (1, 128, 128, 3)
    assert np.isfinite(painted).all()
    defaults = json.loads((tmp_path / "distillery.json").read_text())
    assert defaults["image_size"] == 128
    again = models.build_unet()
    shipped = TrainingStage(
        "unet", tmp_path / "new", nn.ModuleDict({"unet": again}), 1.0, 1.0, 1e-3, CPU, init=tmp_path
    )
    assert torch.equal(shipped.average["unet.conv_in.weight"], pipeline.unet.conv_in.weight)


def test_latents_of_an_older_vae_are_refused(trained: Path) -> None:
    """Latents of an older VAE are not mixed with those of a newer one."""
    vae_training.encode(trained, CPU)
    checkpoint = trained / "vae.safetensors"
    kept = checkpoint.read_bytes()
    save_file({"none": torch.zeros(1)}, checkpoint, metadata={"step": "7"})
    try:
        with pytest.raises(TrainingError, match=r"trained further after unet\.safetensors was begun"):
            vae_training.encode(trained, CPU)
    finally:
        checkpoint.write_bytes(kept)


def test_the_decoder_learns_alone_and_the_latents_stay(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After each turn the real thing measures 512 scenes.
    monkeypatch.setattr(vae_training, "measure", partial(vae_training.measure, num=32))
    out = shutil.copytree(trained, tmp_path / "run")
    latents = vae_training.encode(out, CPU)
    before = vae_training.load_vae(out)
    for turn in (1, 2):
        args = argparse.Namespace(
            out=out, device="cpu", seed=0, minutes=0.004 * turn, stop_after=1.0, learning_rate=1e-3, batch_size=2
        )
        vae_training.train_decoder(args)
    after = vae_training.load_vae(out)
    x = to_float(torch.from_numpy(np.load(out / "images.npy")))
    with torch.no_grad():
        z = before.encode(x).latent_dist.mean
        assert torch.equal(after.encode(x).latent_dist.mean, z)
        assert not torch.equal(after.decode(z).sample, before.decode(z).sample)
    assert torch.equal(vae_training.encode(out, CPU), latents)


def test_the_card_has_the_measurements(trained: Path, tmp_path: Path) -> None:
    vae_training.encode(trained, CPU)
    FactorReader(FactorNetwork()).save(trained / "reader")
    assemble(trained, tmp_path)
    with pytest.raises(TrainingError, match=r"has no score\.json yet"):
        write_card(tmp_path, trained)
    result = score(tmp_path, trained, num=4, num_inference_steps=2)
    # Four scenes need not have them all.
    assert set(BARS) - set(result) <= {"flower", "character", "material", "weather"}
    assert 0 <= result["everything"] <= 1 and result["num_inference_steps"] == 2
    reader = FactorReader.load(tmp_path / "reader")
    vae = vae_training.load_vae(trained)
    measured = {"accuracy": accuracy(reader, vae, num=40), "confusion": confusion(reader, num=6)}
    assert sum(measured["confusion"]["color"][value][answer] for value in COLORS for answer in (*COLORS, "?")) == 6
    (trained / "readers.json").write_text(json.dumps(measured))
    (trained / "vae.png").write_bytes((trained / "samples.png").read_bytes())
    rows = [{"call": {"stage": "vae", "minutes": 3}}, {"stage": "vae", "step": 7, "minutes": 2.6, "loss": 0.5}]
    (trained / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_card(tmp_path, trained).read_text()
    assert f"| vae_psnr | {BARS['vae_psnr']:g} | {result['vae_psnr']:.2f} |" in page
    save_file({"other": torch.zeros(1)}, tmp_path / "unet" / "other.safetensors")
    again = write_card(tmp_path, trained).read_text()
    assert f"| {result['vae_psnr']:.2f} | {result['vae_psnr']:.2f} |" in again, "what was shipped before is kept"
    assert "| vae | minutes 3 | 7 | 3 | 0.500, 0.500 |" in page
    assert "| unet | 11.8" in page and "| color | red |" in page
    assert (tmp_path / "samples.png").exists()


def test_the_kernel_distance_tells_distributions_apart() -> None:
    draws = np.random.default_rng(0)
    a, b = draws.standard_normal((2, 400, 16)).astype(np.float32)
    assert abs(kernel_distance(a, b)) < 0.05
    assert kernel_distance(a + 1, b) > 0.5


def test_the_readers_train_and_resume(trained: Path) -> None:
    """The readers train on the drawn world, and resume."""
    vae_training.encode(trained, CPU)
    images, labels = reader_images(trained, 10, CPU)
    assert images.shape == (12, 2, 128, 128, 3) and labels.shape == (12, 3, len(HEADS))
    scene, other, factor = pair("train", 7)
    place, values = list(HEADS).index(factor), (*HEADS[factor], "?")
    assert [values[answer] for answer in labels[7, :, place]] == [scene.factors[factor], other.factors[factor], "?"]
    assert np.array_equal(images[7, 1], render(other).image)
    assert not np.array_equal(images[10], images[0]) and np.array_equal(labels[10], labels[0])  # through the VAE
    shutil.rmtree(trained / "reader", ignore_errors=True)
    for turn in (1, 2):
        run = TrainingStage(
            "reader", trained, nn.ModuleDict({"reader": FactorNetwork()}), 0.004 * turn, 1.0, 1e-3, CPU
        )
        assert (run.step > 0) == (turn == 2)
        train_reader(run, images, labels, batch_size=4, seed=0, num_scenes=40)
    assert json.loads((trained / "readers.json").read_text())["accuracy"]["drawn"].keys() == HEADS.keys()
    assert FactorReader.load(trained / "reader").read(images[:, 0]).keys() == HEADS.keys()
