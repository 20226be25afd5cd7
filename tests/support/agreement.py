"""Compare two ways of computing the same thing, up to rounding.

Another processor, number of threads or place in a batch changes the order in which numbers are added. A network
spreads each layer's rounding over all values of the next, so a value's error follows the size of the largest value,
not its own. A tolerance relative to each value therefore fails near zero, and a fixed absolute one fits one machine.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def assert_agrees(actual: Tensor, expected: Tensor, scale: float | None = None, steps: int = 1000) -> None:
    """Assert that two tensors are equal but for rounding.

    Args:
        actual: of the same shape and dtype as `expected`.
        expected: what it should be.
        scale: the size of the values that were added up (default: the largest of `expected`).
        steps: how many rounding steps of a value of that size are allowed. A thousand (1.2e-4 of it in float32) is
            ten times what networks of tens of layers need, and far below the error of a wrong formula.
    """
    actual, expected = actual.detach(), expected.detach()
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert actual.isfinite().all()
    size = float(expected.abs().max()) if scale is None else scale
    error = float((actual - expected).abs().max())
    assert error <= steps * torch.finfo(expected.dtype).eps * size, f"off by {error:.2g} of {size:.2g}"


def assert_same_pixels(actual: ArrayLike, expected: ArrayLike) -> None:
    """Assert that two uint8 images are equal except for a few values that rounding moved to the next level."""
    first, second = (np.asarray(image).astype(int) for image in (actual, expected))
    assert first.shape == second.shape
    assert np.abs(first - second).max() <= 1
    assert np.count_nonzero(first != second) <= max(2, first.size // 100), "rounding moves few values"
