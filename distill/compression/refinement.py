"""A last phase of a pixel network's training that asks the teacher itself: DDS, through the VAE's encoder.

The student's images are no longer the only truth. The network's own image x is encoded, and the delta score of its
latent, which says what is still wrong with it, flows back through the encoder into the network's weights:

    z = E(x),    weight (eps^omega(z_t, y, t) - eps^omega(z_hat_t, y_hat, t)) dz/dx dx/dtheta

beside the losses on pixels, which hold the surroundings.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from distill.compression.losses import change_loss, gradient_loss, pixel_loss
from distill.compression.pairs import PixelPairs
from distill.pixel import PixelNetwork
from distill.scores import dds, surrogate_loss
from distill.settings import PixelSettings, TrainingSettings
from distill.training.draws import draw_image, draw_noise
from distill.training.pairs import prepare_pairs
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import Template
from synth.pixels import to_float
from synth.teacher.teacher import Teacher

NUM_STEPS = 150
LEARNING_RATE = 1e-4
WEIGHT = 0.1
"""Of the score, as a mean over the latent's elements."""


def refine(
    network: PixelNetwork,
    teacher: Teacher,
    pairs: PixelPairs,
    dataset: ImageDataset,
    texts: Template,
    edits: Mapping[str, dict[str, str]],
    settings: PixelSettings,
    latents: Path,
) -> PixelNetwork:
    """Train a network for `NUM_STEPS` more, in place: its normalizations keep their statistics.

    Args:
        network: trained on the pairs, in evaluation mode.
        teacher: it scores and encodes.
        pairs: images, and what the student made of them.
        dataset: the images that the pairs were made of, with their prompts.
        texts: the template of these prompts.
        edits: name -> what it replaces, in the order of the edits' numbers.
        settings: of the training; gives the batch size and the seed.
        latents: where the images' latents are cached.
    """
    scoring = TrainingSettings(preset="short")
    words = prepare_pairs(teacher, dataset, texts, edits, latents, progress=False)
    shape = words.latents.shape[1:]  # (C, h, w)
    optimizer = torch.optim.Adam(network.requires_grad_(True).parameters(), lr=LEARNING_RATE)
    for step in tqdm(range(NUM_STEPS), desc="DDS", unit="step", leave=False):
        positions = range(step * settings.batch_size, (step + 1) * settings.batch_size)
        chosen = [draw_image(settings.seed, position, len(pairs)) for position in positions]  # of N pairs
        images, made, numbers = zip(*(pairs.pair(number) for number in chosen), strict=True)
        x_hat, y = (
            to_float(torch.from_numpy(np.stack(side))).to(teacher.device) for side in (images, made)
        )  # (N, 3, H, W) each
        edit = torch.tensor(numbers, device=teacher.device)  # (N,)
        x = network(x_hat, edit, torch.ones(len(x_hat), device=teacher.device))  # (N, 3, H, W)

        rows = [number // pairs.edits_an_image for number in chosen]  # the image of each pair
        drawn = [draw_noise(scoring, step, place, shape) for place in range(len(rows))]
        t, eps = (torch.stack(part).to(teacher.device) for part in zip(*drawn, strict=True))
        z = teacher.encode_with_gradient(x)  # (N, C, h, w)
        targets = [words.target_prompts[row][number] for row, number in zip(rows, numbers, strict=True)]
        score = dds(
            teacher,
            z.detach(),
            words.latents[rows].to(teacher.device),
            teacher.encode_prompt(targets),
            teacher.encode_prompt([words.source_prompts[row] for row in rows]),
            t,
            eps,
            scoring.guidance_end,
        )  # (N, C, h, w)
        loss = pixel_loss(x, y) + change_loss(x, y, x_hat) + gradient_loss(x, y)
        loss = loss + WEIGHT * surrogate_loss(z, score) / z.numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.requires_grad_(False)
    return network
