"""Warm-up and annealing (supplement, section B)."""

import math


def cosine(step: int, start: float, end: float, num_steps: int) -> float:
    """From `start` at step 0 to `end` at `num_steps` along half a cosine, then `end`."""
    done = min(1.0, step / num_steps)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


def linear_warmup(step: int, num_steps: int) -> float:
    """A factor that grows from 1 / num_steps at step 0 to 1, then stays."""
    return min(1.0, (step + 1) / num_steps) if num_steps else 1.0
