"""Trains the factor readers, and tells how far they can be trusted.

The training set is the train split alone: every scene with one counterfactual and what lies half-way between the two,
which shows neither value; blurred, tinted, noisy, and as the VAE reconstructs it.
"""

import json
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from synth.miniature import models
from synth.miniature.readers import HEADS, NONE, FactorNetwork, FactorReader, labels_of
from synth.miniature.stage import averaged_network
from synth.miniature.world import FACTORS, MASK_OF, WorldScene, render, sample_scene
from synth.pixels import to_float, to_uint8
from synth.seeds import derive_seed


def pair(split: str, index: int) -> tuple[WorldScene, WorldScene, str]:
    """A scene, its counterfactual under one edit factor, and that factor; pure."""
    scene = sample_scene(split, index)
    rng = np.random.default_rng(derive_seed("reader", split, index))
    factor = rng.choice([name for name in scene.factors if name in MASK_OF])
    others = [value for value in FACTORS[scene.kind][factor] if value != scene.factors[factor]]
    return scene, scene.replace(**{str(factor): str(rng.choice(others))}), str(factor)


def train_reader(out: Path, minutes: float, device: str, num_pairs: int = 40_000, batch_size: int = 256) -> None:
    """Train on drawn scenes of the train split, blurred, reconstructed and blended; save to `out/reader`.

    Args:
        out: where the VAE's checkpoint is.
        minutes: of training; drawing and reconstructing come before.
        device: where.
        num_pairs: scenes, each with one counterfactual; a third of them are also seen through the VAE.
        batch_size: pictures a step.
    """
    target = torch.device(device)
    with ProcessPoolExecutor() as pool:
        drawn = [item for part in pool.map(_draw_pairs, range(0, num_pairs, 250)) for item in part]
    images = torch.from_numpy(np.stack([item[0] for item in drawn]))  # (P, 2, 128, 128, 3)
    wanted = {name: torch.tensor([item[1][name] for item in drawn]) for name in HEADS}  # (P, 3)
    vae = averaged_network(out, "vae", "vae", models.build_vae()).to(target)
    through_vae = _reconstruct(vae, images[: num_pairs // 3].flatten(0, 1)).view(-1, 2, *images.shape[2:])
    images = torch.cat([images, through_vae]).to(target)
    wanted = {name: torch.cat([each, each[: num_pairs // 3]]).to(target) for name, each in wanted.items()}
    network = FactorNetwork().to(target)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    started, step = time.time(), 0
    while (done := (time.time() - started) / 60 / minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100) * (1 - done)
        generator = torch.Generator(target).manual_seed(derive_seed("reader", step))
        chosen = torch.randint(len(images), (batch_size,), generator=generator, device=target)
        role = torch.randint(3, (batch_size,), generator=generator, device=target)  # the one, the other, between
        amount = torch.rand((batch_size,), generator=generator, device=target) * 0.4 + 0.3
        amount = torch.where(role == 2, amount, role.float())[:, None, None, None]
        x = to_float(images[chosen, 0]) * (1 - amount) + to_float(images[chosen, 1]) * amount
        logits = network(_disturb(x, generator))
        loss = sum(
            (F.cross_entropy(logits[name], wanted[name][chosen, role]) for name in HEADS),
            torch.zeros(()).to(x),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        if step % 50 == 0:
            print(json.dumps({"stage": "reader", "step": step, "loss": round(float(loss), 4)}), flush=True)
    reader = FactorReader(network)
    reader.save(out / "reader")
    measured = {"accuracy": accuracy(reader, vae), "confusion": confusion(reader)}
    part = out / "readers.json.part"
    part.write_text(json.dumps(measured, indent=1) + "\n")
    os.replace(part, out / "readers.json")
    print(json.dumps(measured["accuracy"], indent=1), flush=True)


def accuracy(reader: FactorReader, vae: Any, num: int = 1000) -> dict[str, dict[str, float]]:
    """The share of right answers, by what is shown and by factor.

    Shown are `num` unseen scenes as drawn, blurred (Gaussian, sigma 1 pixel) and through the VAE; as many shifted
    ones; and, as "half-way", the mean of a scene and its counterfactual, where only "none of these" is right.
    """
    pairs = [pair("development", index) for index in range(num)]
    scenes = [scene for scene, _, _ in pairs]
    first = np.stack([render(scene).image for scene in scenes])
    second = np.stack([render(other).image for _, other, _ in pairs])
    drawn = torch.from_numpy(first)
    shifted = [sample_scene("shifted", index) for index in range(num)]
    shown = {
        "drawn": (scenes, first),
        "blurred": (scenes, to_uint8(_blur(to_float(drawn), 1.0))),
        "reconstructed": (scenes, _reconstruct(vae, drawn).numpy()),
        "shifted": (shifted, np.stack([render(scene).image for scene in shifted])),
    }
    table: dict[str, dict[str, float]] = {}
    for name, (there, images) in shown.items():
        answers = reader.read(images)
        table[name] = {}
        for factor in HEADS:
            wanted = [labels_of(scene)[factor] for scene in there]
            right = [a == w for a, w in zip(answers[factor], wanted, strict=True) if w != NONE]
            table[name][factor] = round(float(np.mean(right)), 4)
    answers = reader.read(((first.astype(np.uint16) + second) // 2).astype(np.uint8))
    table["half-way"] = {
        factor: round(float(np.mean([answers[factor][i] == NONE for i, p in enumerate(pairs) if p[2] == factor])), 4)
        for factor in MASK_OF
    }
    return table


def confusion(reader: FactorReader, num: int = 1000, split: str = "shifted") -> dict[str, dict[str, dict[str, int]]]:
    """Of each edit factor: true value -> answer -> how often, over `num` scenes of each kind that has it."""
    tables: dict[str, dict[str, dict[str, int]]] = {}
    for kind, factors in FACTORS.items():
        scenes = [sample_scene(split, index, kind) for index in range(num)]
        answers = reader.read(np.stack([render(scene).image for scene in scenes]))
        for factor in factors.keys() & MASK_OF.keys():
            counts = Counter(
                (scene.factors[factor], answer)
                for scene, answer in zip(scenes, answers[factor], strict=True)
                if factor in scene.factors
            )
            tables[factor] = {
                value: {answer: counts[value, answer] for answer in (*factors[factor], NONE)}
                for value in factors[factor]
            }
    return tables


def _draw_pairs(start: int) -> list[tuple[NDArray[np.uint8], dict[str, list[int]]]]:
    drawn = []
    for index in range(start, start + 250):
        scene, other, factor = pair("train", index)
        between = labels_of(scene) | {factor: NONE}
        said = [labels_of(scene), labels_of(other), between]
        numbers = {name: [(*HEADS[name], NONE).index(label[name]) for label in said] for name in HEADS}
        drawn.append((np.stack([render(scene).image, render(other).image]), numbers))
    return drawn


@torch.no_grad()
def _reconstruct(vae: Any, images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) through the VAE's encoder and decoder."""
    parts = []
    for part in tqdm(torch.split(images, 32), desc="reconstructing", leave=False):
        x = to_float(part.to(vae.device))
        parts.append(torch.from_numpy(to_uint8(vae.decode(vae.encode(x).latent_dist.mode()).sample)))
    return torch.cat(parts)


def _disturb(x: Tensor, generator: torch.Generator) -> Tensor:
    """What may happen to a picture without changing what it shows."""
    with torch.no_grad():
        draws = torch.rand((4,), generator=generator, device=x.device).tolist()
        if draws[0] < 0.6:
            x = _blur(x, 0.3 + 1.2 * draws[1])
        shape = (len(x), 3, 1, 1)
        x = x * (1 + 0.05 * torch.randn(shape, generator=generator, device=x.device))
        x = x + 0.03 * torch.randn(shape, generator=generator, device=x.device)
        x = x + 0.04 * draws[2] * torch.randn(x.shape, generator=generator, device=x.device)
    return x.clamp(-1, 1)


def _blur(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur; `sigma` in pixels."""
    reach = torch.arange(-4, 5, device=x.device, dtype=x.dtype)
    kernel = (-(reach**2) / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum()).repeat(3, 1)  # (3, 9)
    x = F.conv2d(F.pad(x, (4, 4, 0, 0), mode="replicate"), kernel[:, None, None, :], groups=3)
    return F.conv2d(F.pad(x, (0, 0, 4, 4), mode="replicate"), kernel[:, None, :, None], groups=3)
