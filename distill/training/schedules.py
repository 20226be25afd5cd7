"""Curves over training steps. Pure; steps count from 0."""

import math


def cosine(step: int, start: float, end: float, length: int) -> float:
    """Follow half a cosine from `start` at step 0 to `end` at step `length`; after it stay at `end`.

    The guidance scale omega rises so (1 -> 25) and lambda_id falls so (3 -> 0.1): supplement, section B.
    """
    if step >= length:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / length)) / 2


def linear_warmup(step: int, length: int) -> float:
    """Return the learning rate's factor: 1 / length at step 0, 1 from step length - 1 on; never 0."""
    return min(1.0, (step + 1) / max(1, length))
