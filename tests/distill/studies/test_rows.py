"""Statistics over rows: means and honest intervals."""

import numpy as np
import pytest

from distill.studies.rows import mean, paired_difference
from distill.studies.study import Row


def rows_of(method: str, psnr: list[float]) -> list[Row]:
    same: Row = {
        "split": "test",
        "edit": "red",
        "seconds": 1.0,
        "ssim_all": 0.9,
        "sharpness_inside": 1.0,
    }
    return [
        {
            "method": method,
            "scene": place,
            "psnr_all": value,
            "psnr_inside": value,
            **same,
            "psnr_outside_to_input": 30.0,
            "right": 1.0,
        }
        for place, value in enumerate(psnr)
    ]


def test_intervals_are_paired_by_scene() -> None:
    """Scenes differ by far more than methods do: only the pairing sees the difference."""
    hard = np.linspace(10, 40, 24)
    rows = rows_of("a", list(hard + 0.5)) + rows_of("b", list(hard))
    assert paired_difference(rows, "a", "b", "test", "psnr_all") == pytest.approx((0.5, 0.5, 0.5))
    noise = np.random.default_rng(1).normal(0, 1, 24)
    rows = rows_of("a", list(hard + noise)) + rows_of("b", list(hard))
    gain, low, high = paired_difference(rows, "a", "b", "test", "psnr_all")
    assert low < 0 < high and gain == pytest.approx(noise.mean())
    rows[0]["psnr_all"] = rows[24]["psnr_all"] = None  # weather changes all of an image: it has no outside
    gain, _, _ = paired_difference(rows, "a", "b", "test", "psnr_all")
    assert gain == pytest.approx(noise[1:].mean())
    assert mean(rows, "psnr_all", method="a", split="test") == pytest.approx(float((hard + noise)[1:].mean()))
    assert np.isnan(mean(rows, "psnr_all", method="c"))
