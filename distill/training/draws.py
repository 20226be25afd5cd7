"""What a step draws: images, timesteps, noise and edits, each from (seed, what it is for, step, sample) alone."""

from functools import lru_cache

import torch
from torch import Tensor

from distill.settings import TrainingSettings, edits_of_an_image
from synth.seeds import derive_seed


def share_of(num_pairs: int, rank: int, world_size: int) -> range:
    """The pairs of a step that one of several processes takes; shares differ by one pair at most."""
    return range(num_pairs * rank // world_size, num_pairs * (rank + 1) // world_size)


def draw_image(seed: int, position: int, num_images: int) -> int:
    """Choose the image in the `position`th place of a training: all of them in a shuffled order, over and over."""
    epoch, place = divmod(position, num_images)
    return int(_order(seed, epoch, num_images)[place])


@lru_cache(maxsize=2)  # a batch may reach into the next epoch; drawing the order of 500,000 images takes 24 ms
def _order(seed: int, epoch: int, num_images: int) -> Tensor:
    """The order of the images in an epoch, int64 (num_images,)."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
    return torch.randperm(num_images, generator=generator)


def draw_noise(settings: TrainingSettings, step: int, sample: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Draw t, int64 (), and eps, float32 of `shape`, for one image of one step: on the CPU, the same everywhere."""
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "step", step, sample))
    t = torch.randint(settings.min_timestep, settings.max_timestep + 1, (), generator=generator)
    return t, torch.randn(shape, generator=generator)


def draw_edits(settings: TrainingSettings, step: int, sample: int, num_known: int) -> list[int]:
    """Choose the edits that one image of one step is taken through, as their numbers, ascending.

    The images of a step take their edits one after another from one shuffled order of all edits, over and over: no
    image meets an edit twice, and every edit gets its share of each step, up to one.

    Args:
        settings: the seed, and how many edits an image gets.
        step: counted from 0.
        sample: the image's place in the step's batch.
        num_known: the number of all edits.
    """
    count = edits_of_an_image(settings, num_known)
    if count == num_known:
        return list(range(num_known))
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "edits", step))
    order = torch.randperm(num_known, generator=generator).tolist()
    return sorted(order[place % num_known] for place in range(sample * count, (sample + 1) * count))
