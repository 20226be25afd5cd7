"""How near two ways of computing the same thing come.

Another processor, another number of threads or another place in a batch adds the same numbers in another order. A
network spreads each layer's rounding over all values of the next, so the error of a value follows the size of the
largest one rather than its own: a value near zero is off by as much as the others. A relative tolerance a value says
nothing there, and a small absolute one says what one machine happened to give.
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
        scale: the size of the values that were added up; by default the largest of `expected`.
        steps: how many rounding steps of a value of that size are allowed. A thousand (1.2e-4 of it in float32) is
            ten times what tens of layers have been seen to need, and far below what a wrong formula moves.
    """
    actual, expected = actual.detach(), expected.detach()
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert actual.isfinite().all()
    size = float(expected.detach().abs().max()) if scale is None else scale
    error = float((actual - expected).detach().abs().max())
    assert error <= steps * torch.finfo(expected.dtype).eps * size, f"off by {error:.2g} of {size:.2g}"


def assert_same_pixels(actual: ArrayLike, expected: ArrayLike) -> None:
    """Assert that two uint8 images are equal but for values that rounding tipped over to the next level."""
    ours, theirs = (np.asarray(image).astype(int) for image in (actual, expected))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1
    assert np.count_nonzero(ours != theirs) <= max(2, ours.size // 100), "rounding tips few values, not many"
