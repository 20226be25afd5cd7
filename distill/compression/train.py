"""Trains a pixel network on what a student makes. The loop yields; its caller logs and stops."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.compression.augmentation import draw_augmentation, draw_crop
from distill.compression.losses import (
    FeatureLoss,
    Losses,
    change_loss,
    draw_window,
    gradient_loss,
    pixel_loss,
    variogram_loss,
)
from distill.compression.pairs import PixelPairs
from distill.pixel import PixelNetwork, new_network
from distill.settings import PIXEL_LOG_KEYS, PixelSettings
from distill.training import checkpoints
from distill.training.draws import draw_image
from distill.training.memory import explained, pixel_knobs, release_memory
from distill.training.schedules import cosine, linear_warmup
from synth.ema import ema_step
from synth.errors import TrainingError
from synth.pixels import to_float
from synth.teacher.conditioning import to_device
from synth.teacher.teacher import Teacher

_WARMUP_STEPS = 50
_KEEP_CHECKPOINTS = 2
_PARTS = 7  # of a training, of which the last sharpens textures
_SHARPENING_RATE = 0.25  # of the learning rate

Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class PixelRecord:
    """The metrics of a step, and the network after it."""

    step: int
    """Steps done so far, from 1 on."""
    pixels: float
    """Mean absolute difference to the student's images, of 2 from black to white."""
    change: float
    """The same over what the edits change, each pixel weighted by how much."""
    gradients: float
    """The first of the differences between neighbouring pixels."""
    features: float
    """Relative difference of the VAE encoder's features; 0 where neither they nor textures have a weight."""
    textures: float
    """The same of how strong their texture is."""
    variogram: float
    """Difference of the local variograms, in contrast a pixel; 0 before the last seventh of the training."""
    learning_rate: float
    seconds: float
    """Wall time of this step."""
    network: PixelNetwork = field(repr=False, compare=False)
    """The moving average, in evaluation mode. It keeps changing."""

    def row(self) -> dict[str, float]:
        """The metrics alone, for a log."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "network"}


def train(
    teacher: Teacher,
    pairs: PixelPairs,
    edits: Mapping[str, str],
    settings: PixelSettings,
    depends_on: Mapping[str, Any],
    run_dir: Path,
    autocast: Autocast,
) -> Iterator[PixelRecord]:
    """Train until `settings.steps`, resuming from the last checkpoint in `run_dir`, and yield once a step.

    Checkpoints are written every `checkpoint_every` steps and at the end, before the step is yielded. Every draw
    follows from (seed, purpose, index), so a training that was stopped and resumed gives the very weights of one that
    was not: to the bit on a CPU with the same number of threads.

    Args:
        teacher: gives the features and the device.
        pairs: images, and what the student made of them.
        edits: name -> an example of the target prompt, in the order of their numbers.
        settings: of the training.
        depends_on: what the pairs follow from, as JSON values; `data` is the dataset's fingerprint.
        run_dir: `checkpoints/` is written there.
        autocast: the precision that the network runs in.

    Raises:
        TrainingError: if the checkpoint belongs to another training, a loss is not a finite number, or a GPU's memory
            is too small for a step.
    """
    release_memory(teacher.device)  # of what made the pairs
    network = new_network(edits, settings).to(teacher.device).train()
    averaged = deepcopy(network).requires_grad_(False).eval()
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    depends_on = {**depends_on, **settings.model_dump(mode="json", exclude=PIXEL_LOG_KEYS), "edits": list(edits)}
    steps_done = 0
    if (checkpoint := checkpoints.latest(run_dir)) is not None:
        steps_done = checkpoints.restore(checkpoint, network, averaged, optimizer, depends_on)
    features = FeatureLoss(teacher) if settings.feature_weight or settings.texture_weight else None

    for step in range(steps_done, settings.steps):
        started = time.perf_counter()
        rate = _learning_rate(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate

        with explained(pixel_knobs(settings), f"at step {step + 1} of the pixel network"):
            optimizer.zero_grad(set_to_none=True)
            losses = _losses(network, pairs, settings, step, features, autocast)
            losses.weighted(settings).backward()  # type: ignore[no-untyped-call]
            metrics = losses.values()
            _require_finite(step + 1, metrics)
            optimizer.step()
            _average(averaged, network, settings.ema_decay, step)

        # Before the yield: a caller that stops here finds the checkpoint of the step that it saw.
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            state = optimizer.state_dict()
            checkpoints.save(run_dir, step + 1, network, averaged, state, depends_on, _KEEP_CHECKPOINTS)
        yield PixelRecord(
            step=step + 1,
            pixels=metrics["pixels"],
            change=metrics["change"],
            gradients=metrics["gradients"],
            features=metrics["features"],
            textures=metrics["textures"],
            variogram=metrics["variogram"],
            learning_rate=rate,
            seconds=time.perf_counter() - started,
            network=averaged,
        )


def seconds_of_step(teacher: Teacher, settings: PixelSettings, side: int, autocast: Autocast) -> float:
    """Time a step of a training on images of `side` x `side` pixels, which are drawn for it and thrown away."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 2, side, side, 3), np.uint8)  # an image and its edit
    network = new_network({"edit": ""}, settings).to(teacher.device).train()
    features = FeatureLoss(teacher) if settings.feature_weight or settings.texture_weight else None
    seconds = []
    for step in range(3):  # the first one prepares kernels
        started = time.perf_counter()
        losses = _losses(network, PixelPairs([image], [[0]]), settings, step, features, autocast)
        losses.weighted(settings).backward()  # type: ignore[no-untyped-call]
        losses.values()  # waits for a GPU
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def _losses(
    network: PixelNetwork,
    pairs: PixelPairs,
    settings: PixelSettings,
    step: int,
    features: FeatureLoss | None,
    autocast: Autocast,
) -> Losses:
    """The losses of a step's batch of N pairs, each augmented; h x w is the size of the step's crops."""
    device = network.device
    inputs, targets, edits, windows = _batch(pairs, settings, step)
    x, y = to_device(inputs, device), to_device(targets, device)  # (N, 3, h, w) each
    with autocast():
        translated = network(x, to_device(edits, device), torch.ones(len(x), device=device))  # (N, 3, h, w)
    x_there, translated_there, y_there = (_cut(images, windows) for images in (x, translated, y))
    distance = textures = variogram = torch.zeros((), device=device)
    if features is not None:
        with autocast():
            distance, textures = features(translated_there, y_there)
    if step >= _sharpening_from(settings.steps) and settings.variogram_weight:
        variogram = variogram_loss(translated_there, y_there, x_there)
    return Losses(
        pixels=pixel_loss(translated, y),
        change=change_loss(translated, y, x),
        gradients=gradient_loss(translated, y),
        features=distance,
        textures=textures,
        variogram=variogram,
    )


def _sharpening_from(num_steps: int) -> int:
    """The step, from 0 on, from which textures get sharp: those from it on are the last seventh, or none of six."""
    return num_steps - num_steps // _PARTS


def _learning_rate(step: int, settings: PixelSettings) -> float:
    """It falls to 0 twice: while the network learns what to change, and lower, while its textures get sharp."""
    start, peak, length = 0, settings.learning_rate, _sharpening_from(settings.steps)
    if step >= length:
        start, peak, length = length, settings.learning_rate * _SHARPENING_RATE, settings.steps - length
    return cosine(step - start, peak, 0.0, length) * linear_warmup(step - start, _WARMUP_STEPS)


def _batch(
    pairs: PixelPairs, settings: PixelSettings, step: int
) -> tuple[Tensor, Tensor, Tensor, list[tuple[slice, slice]]]:
    """Read a step's pairs: inputs and targets, float (N, 3, h, w), edits, int64 (N,), and windows, on the CPU."""
    height, width = draw_crop(settings.seed, step, *pairs.image_size)
    positions = range(step * settings.batch_size, (step + 1) * settings.batch_size)
    both, edits = [], []
    for position in positions:
        image, made, edit = pairs.pair(draw_image(settings.seed, position, len(pairs)))
        pair = to_float(torch.stack([torch.from_numpy(image.copy()), torch.from_numpy(made.copy())]))  # (2, 3, H, W)
        both.append(draw_augmentation(settings.seed, position).apply(pair, height, width))  # (2, 3, h, w)
        edits.append(edit)
    inputs, targets = torch.stack(both, dim=1)  # (N, 3, h, w) each
    change = (targets - inputs).abs().sum(dim=1)  # (N, h, w)
    windows = [draw_window(settings.seed, position, own) for position, own in zip(positions, change, strict=True)]
    return inputs, targets, torch.tensor(edits), windows


def _cut(images: Tensor, windows: Sequence[tuple[slice, slice]]) -> Tensor:
    """Cut each image to its window: float (N, 3, h, w) -> (N, 3, h / 2, w / 2)."""
    return torch.stack([image[:, rows, columns] for image, (rows, columns) in zip(images, windows, strict=True)])


def _average(averaged: PixelNetwork, network: PixelNetwork, decay: float, step: int) -> None:
    """Move the average towards the network: its weights, and the statistics of its normalizations."""
    theirs = network.state_dict()
    ours = averaged.state_dict()
    floats = [name for name, tensor in ours.items() if tensor.is_floating_point()]
    ema_step([ours[name] for name in floats], [theirs[name] for name in floats], decay, step)
    for name in ours.keys() - set(floats):  # counts of batches
        ours[name].copy_(theirs[name])


def _require_finite(step: int, metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss on {name} is {value} at step {step} of the pixel network: lower "
                "pixel.learning_rate, and repeat the command"
            )
