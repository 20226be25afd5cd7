"""PSNR and SSIM, by hand and against scikit-image."""

import numpy as np
import pytest

from distill.evaluation.metrics import MAX_PSNR, psnr, ssim_map


def test_psnr_by_hand_and_by_scikit_image() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 9, 13, 3), dtype=np.uint8)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b))
    assert psnr(a, a) == MAX_PSNR
    mask = np.zeros((9, 13), bool)
    mask[2, 3] = True
    one = np.zeros((9, 13, 3), np.uint8)
    other = one.copy()
    other[2, 3] = 255  # the one pixel as wrong as can be, and 16 one step off
    other[0] = 1
    assert psnr(one, other, mask) == pytest.approx(0)
    assert psnr(one, other, ~mask) == pytest.approx(10 * np.log10(255**2 * 116 / 13))


def test_ssim_is_one_for_equals_and_is_local() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (48, 40, 3), dtype=np.uint8)
    b = a.copy()
    b[:8, :8] = 255 - b[:8, :8]
    similarity = ssim_map(a, b)
    assert similarity.shape == (48, 40)
    assert similarity[:4, :4].max() < 0 and similarity[20:, 20:] == pytest.approx(1)
