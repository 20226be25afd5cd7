"""Curves over training steps. Pure; the step is counted from 0."""

import math


def cosine(step: int, start: float, end: float, length: int) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `length`, and `end` from there on.

    Used for the guidance scale omega (1 -> 25) and for lambda_id (3 -> 0.1): supplement of the paper, section B.
    """
    if step >= length:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / length)) / 2


def linear_warmup(step: int, length: int) -> float:
    """The factor of the learning rate: 1 / length at step 0, 1 from step length - 1 on. Never 0."""
    return min(1.0, (step + 1) / max(1, length))
