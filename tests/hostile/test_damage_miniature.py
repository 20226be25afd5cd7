"""Damage to what the miniature's training leaves between its stages is one line that names the file."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import damages_of
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from synth.errors import DistilleryError
from synth.miniature import models
from synth.miniature.assembly import load_tokenizer
from synth.miniature.card import write_card
from synth.miniature.reader_training import reader_images
from synth.miniature.stage import TrainingStage, averaged_network
from synth.miniature.unet_training import train_unet
from synth.miniature.vae_training import encode, load_images, load_vae, train_decoder
from synth.world.readers import HEADS, FactorNetwork, FactorReader

CPU = torch.device("cpu")
NUM = 2  # scenes


def small_stage(out: Path) -> TrainingStage:
    torch.manual_seed(0)
    network = nn.ModuleDict({"network": nn.Conv2d(3, 3, 1)})
    return TrainingStage("small", out, network, 1.0, 1.0, 1e-2, CPU)


def arguments(out: Path) -> Any:
    return argparse.Namespace(out=out, device="cpu", init=None, seed=0)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages write, of networks that were never trained; each test mends what it damages."""
    out = tmp_path_factory.mktemp("miniature")
    np.save(out / "images.npy", np.zeros((NUM, 128, 128, 3), np.uint8))
    texts = [[f"a {color} sofa, {place}" for place in range(4)] for color in ("red", "blue")]
    (out / "captions.json").write_text(json.dumps(texts))
    models.build_tokenizer([text for of_scene in texts for text in of_scene] * 3, out / "tokenizer")
    TrainingStage("vae", out, nn.ModuleDict({"vae": models.build_vae()}), 1.0, 1.0, 1e-3, CPU).save()
    encode(out, CPU)
    vae = load_vae(out)
    parts = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}).requires_grad_(True)
    TrainingStage("decoder", out, parts, 1.0, 1.0, 1e-3, CPU).save()
    stage = small_stage(out)
    stage.networks["network"](torch.ones(1, 3, 2, 2)).sum().backward()
    stage.optimizer.step()
    stage.save()
    np.save(out / "reader_images.npy", np.zeros((NUM, 2, 128, 128, 3), np.uint8))
    np.save(out / "reader_labels.npy", np.zeros((NUM, 3, len(HEADS)), np.int64))
    FactorReader(FactorNetwork()).save(out / "pipeline" / "reader")

    (out / "pipeline" / "unet").mkdir()
    save_file({"weight": torch.zeros(2, 3)}, out / "pipeline" / "unet" / "some.safetensors")
    score = {"num": 4.0, "num_inference_steps": 2.0, "guidance_scale": 2.0, "vae_psnr": 30.0}
    entry = {"weights": "of before", "minutes": {"vae": 3}, "score": score}
    (out / "pipeline" / "scores.json").write_text(json.dumps([entry]))
    (out / "score.json").write_text(json.dumps(score))
    measured = {"accuracy": {"half-way": {"color": 0.5}}, "confusion": {"color": {"red": {"red": 3}}}}
    (out / "readers.json").write_text(json.dumps(measured))
    rows = [{"call": {"stage": "vae"}}, {"stage": "vae", "step": 7, "minutes": 2.6, "loss": 0.5}]
    (out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("samples.png", "vae.png"):
        Image.new("RGB", (8, 8)).save(out / name)
    return out


READERS: dict[str, Callable[[Path], object]] = {
    "small.safetensors": small_stage,
    "images.npy": load_images,
    "vae.safetensors": lambda out: (averaged_network(out, "vae", "vae", models.build_vae()), encode(out, CPU)),
    "latents.safetensors": lambda out: encode(out, CPU),
    "vae/config.json": load_vae,
    "vae/diffusion_pytorch_model.safetensors": load_vae,
    "decoder.safetensors": load_vae,
    "tokenizer/tokenizer.json": load_tokenizer,
    "reader_images.npy": lambda out: reader_images(out, NUM, CPU),
    "reader_labels.npy": lambda out: reader_images(out, NUM, CPU),
    "pipeline/reader/reader.safetensors": lambda out: FactorReader.load(out / "pipeline" / "reader"),
    "pipeline/scores.json": lambda out: write_card(out / "pipeline", out),
    "score.json": lambda out: write_card(out / "pipeline", out),
    "readers.json": lambda out: write_card(out / "pipeline", out),
    "log.jsonl": lambda out: write_card(out / "pipeline", out),
    "captions.json": lambda out: train_unet(arguments(out)),
}
MAY_STAND = {("pipeline/scores.json", "list"), ("log.jsonl", "empty"), ("log.jsonl", "an empty table")}


@pytest.mark.parametrize("name", [name for name in READERS if name != "captions.json"])
def test_what_is_whole_is_read(out: Path, name: str) -> None:
    READERS[name](out)


@pytest.mark.parametrize(("name", "how"), [(name, how) for name in READERS for how in damages_of(name)])
def test_a_damaged_file_is_one_line(out: Path, name: str, how: str) -> None:
    file = out / name
    kept = {path: path.read_bytes() for path in (file, out / "pipeline" / "scores.json")}
    file.write_bytes(damages_of(name)[how](kept[file]))
    try:
        if (name, how) in MAY_STAND:
            READERS[name](out)
            return
        with pytest.raises(DistilleryError) as raised:
            READERS[name](out)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert file.name in str(raised.value) or str(file.parent) in str(raised.value)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1500


def test_stages_of_other_scenes_do_not_mix(out: Path) -> None:
    kept = (out / "captions.json").read_bytes()
    (out / "captions.json").write_text(json.dumps([["a"] * 4] * 3))
    try:
        with pytest.raises(DistilleryError, match=r"captions\.json is of 3 scenes and latents\.safetensors of 2"):
            train_unet(arguments(out))
    finally:
        (out / "captions.json").write_bytes(kept)
    kept = (out / "images.npy").read_bytes()
    np.save(out / "images.npy", np.zeros((3, 128, 128, 3), np.uint8))
    try:
        with pytest.raises(DistilleryError, match="3 images and 2 latents"):
            train_decoder(arguments(out))
    finally:
        (out / "images.npy").write_bytes(kept)


def test_the_script_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "vae.safetensors").write_bytes(b"garbage")
    command = [sys.executable, "-m", "synth.miniature.train", "encode", "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'vae.safetensors'} cannot be read (")
    assert result.stderr.count("\n") == 1
