"""Trains the factor readers and measures how far they can be trusted.

The training set is the train split alone: every scene with one counterfactual and what lies half-way between the two,
which shows neither value; blurred, tinted, noisy, and as the VAE reconstructs it.
"""

import argparse
import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from synth.errors import TrainingError
from synth.files import whole_file, write_text
from synth.miniature.stage import TrainingStage, generator, rank
from synth.miniature.vae_training import load_vae
from synth.pixels import to_float, to_uint8
from synth.seeds import derive_seed
from synth.state import read_array, reading
from synth.world.readers import HEADS, NONE, FactorNetwork, FactorReader, labels_of
from synth.world.scenes import FACTORS, MASK_OF, WorldScene, render, sample_scene


def pair(split: str, index: int) -> tuple[WorldScene, WorldScene, str]:
    """A scene, its counterfactual under one edit factor, and that factor; pure."""
    scene = sample_scene(split, index)
    rng = np.random.default_rng(derive_seed("reader", split, index))
    factor = rng.choice([name for name in scene.factors if name in MASK_OF])
    others = [value for value in FACTORS[scene.kind][factor] if value != scene.factors[factor]]
    return scene, scene.replace(**{str(factor): str(rng.choice(others))}), str(factor)


def train_readers(args: argparse.Namespace) -> None:
    """Train the strict readers; the VAE comes first, since they must also read what it reconstructs."""
    device = torch.device(args.device)
    images, labels = reader_images(args.out, args.num_pairs, device)
    networks = nn.ModuleDict({"reader": FactorNetwork()})
    training = TrainingStage("reader", args.out, networks, args.minutes, args.stop_after, args.learning_rate, device)
    train_reader(training, images, labels, args.batch_size, args.seed)


def train_reader(
    training: TrainingStage,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    batch_size: int,
    seed: int,
    num_scenes: int = 1000,
) -> None:
    """Train until the time is up; save the readers to `out/reader` and their accuracy to `out/readers.json`.

    Args:
        training: with a FactorNetwork called "reader".
        images: uint8 (P, 2, 128, 128, 3), a scene and its counterfactual.
        labels: int64 (P, 3, heads), answers for the one, the other, and what lies between.
        batch_size: images per step.
        seed: of the draws.
        num_scenes: to measure on.
    """
    network = training.networks["reader"]
    kinds = labels[:, 0, list(HEADS).index("kind")]
    share = 1 / np.bincount(kinds)[kinds]  # each kind of scene as often as the others
    share /= share.sum()
    weights = torch.tensor([3.0 if name in MASK_OF else 1.0 for name in HEADS], device=training.device)

    def loss_of(step: int) -> Tensor:
        draws = np.random.default_rng(derive_seed(seed, "reader", step, rank()))
        chosen = draws.choice(len(images), size=batch_size, p=share)
        role = draws.integers(3, size=batch_size)  # the one, the other, between
        amount = np.where(role == 2, draws.uniform(0.3, 0.7, batch_size), role).astype(np.float32)
        mixing = torch.from_numpy(amount).to(training.device)[:, None, None, None]
        first, second = (
            to_float(torch.from_numpy(np.stack([images[index, place] for index in chosen])).to(training.device))
            for place in (0, 1)
        )
        x = first * (1 - mixing) + second * mixing
        wanted = torch.from_numpy(labels[chosen, role]).to(training.device)  # (N, heads)
        disturbed = _disturb(x, generator(training.device, seed, "disturb", step))
        with torch.autocast(training.device.type, torch.bfloat16):
            logits = network(disturbed)
        losses = [F.cross_entropy(logits[name].float(), wanted[:, place]) for place, name in enumerate(HEADS)]
        return (torch.stack(losses) * weights).sum()

    def sample() -> None:
        vae = load_vae(training.out).to(training.device)
        reader = FactorReader(training.averaged()["reader"])  # type: ignore[arg-type]
        reader.save(training.out / "reader")
        measured = {"accuracy": accuracy(reader, vae, num_scenes), "confusion": confusion(reader, num_scenes)}
        write_text(training.out / "readers.json", json.dumps(measured, indent=1) + "\n")
        print(json.dumps(measured["accuracy"], indent=1), flush=True)

    training.train(loss_of, sample)


def reader_images(out: Path, num_pairs: int, device: torch.device) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The readers' training set, kept in `out`: images and labels as `train_reader` takes them. The first fifth of
    the pairs is there once more, through the VAE.

    Raises:
        TrainingError: if a file is damaged.
    """
    images_path, answers = out / "reader_images.npy", out / "reader_labels.npy"
    if not answers.exists():
        with ProcessPoolExecutor() as pool:
            drawn = [
                item
                for batch in pool.map(_draw_pairs, np.array_split(np.arange(num_pairs), max(1, num_pairs // 250)))
                for item in batch
            ]
        again = num_pairs // 5
        images = np.lib.format.open_memmap(images_path, "w+", np.uint8, (num_pairs + again, 2, 128, 128, 3))
        images[:num_pairs] = [item[0] for item in drawn]
        vae = load_vae(out).to(device)
        images[num_pairs:] = _reconstruct(vae, images[:again].reshape(-1, 128, 128, 3)).reshape(-1, 2, 128, 128, 3)
        images.flush()
        drawn_labels = np.array([[item[1][name] for name in HEADS] for item in drawn], np.int64).transpose(0, 2, 1)
        with whole_file(answers) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate([drawn_labels, drawn_labels[:again]]))  # (P, 3, heads)
    remedy = "delete it and reader_labels.npy, and the readers' training set is made again"
    labels = read_array(answers, np.int64, (None, 3, len(HEADS)), TrainingError, remedy)
    shape = (len(labels), 2, 128, 128, 3)
    kept = read_array(images_path, np.uint8, shape, TrainingError, remedy, mmap_mode="r")
    with reading(answers, TrainingError, remedy):
        num_answers = np.array([len(values) + 1 for values in HEADS.values()])
        if not len(labels) or labels.min() < 0 or (labels >= num_answers).any():
            raise ValueError("it has answers that no head gives")
    return kept, labels


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
        "reconstructed": (scenes, _reconstruct(vae, first)),
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


def _draw_pairs(indices: NDArray[np.int64]) -> list[tuple[NDArray[np.uint8], dict[str, list[int]]]]:
    drawn = []
    for index in indices.tolist():
        scene, other, factor = pair("train", index)
        between = labels_of(scene) | {factor: NONE}
        roles = [labels_of(scene), labels_of(other), between]
        numbers = {name: [(*HEADS[name], NONE).index(label[name]) for label in roles] for name in HEADS}
        drawn.append((np.stack([render(scene).image, render(other).image]), numbers))
    return drawn


@torch.no_grad()
def _reconstruct(vae: Any, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (N, H, W, 3) through the VAE's encoder and decoder."""
    parts = []
    for start in tqdm(range(0, len(images), 32), desc="reconstructing", leave=False):
        x = to_float(torch.from_numpy(images[start : start + 32]).to(vae.device))
        with torch.autocast(vae.device.type, torch.bfloat16):
            parts.append(to_uint8(vae.decode(vae.encode(x).latent_dist.mode()).sample))
    return np.concatenate(parts)


def _disturb(x: Tensor, generator: torch.Generator) -> Tensor:
    """Disturb images (N, 3, H, W) without changing what they show."""
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
