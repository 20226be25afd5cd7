"""One step of an exponential moving average of weights, for every training of the project."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def ema_step(averages: Sequence[Tensor], weights: Sequence[Tensor], decay: float, step: int) -> None:
    """Update in place: average <- d average + (1 - d) weight, with d = min(decay, (1 + step) / (10 + step)).

    The decay rises to its value, so that the first weights do not count for ever.

    Args:
        averages: what is updated.
        weights: the trained tensors, in the same order and of the same shapes.
        decay: the final decay a step, in [0, 1).
        step: optimizer steps so far.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(averages), list(weights), 1 - decay)
