"""The peak signal-to-noise ratio, as every comparison of the project computes it."""

import numpy as np


def psnr_from_mse(mean_square_error: float, peak: float) -> float:
    """10 log10(peak^2 / MSE), in dB.

    Args:
        mean_square_error: MSE, above 0; the caller decides what equality counts as.
        peak: the width of the range: 255 for 8-bit values, 2 for [-1, 1].
    """
    return float(10 * np.log10(peak**2 / mean_square_error))
