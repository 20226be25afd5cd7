"""The parity check, with files that are each wrong in one way."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inference.export import parity
from inference.export.parity import ParityError

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


class Darken(nn.Module):
    """Takes the place of a student and its VAE."""

    def forward(self, image: Tensor, edit: Tensor, strength: Tensor) -> Tensor:
        return (image - 0.1 * strength[:, None, None, None] * (1 + edit[:, None, None, None])).clamp(-1, 1)


def correct(feeds: dict[str, Any]) -> np.ndarray:
    inputs = {name: torch.from_numpy(value) for name, value in feeds.items()}
    return Darken()(**inputs).numpy()


def off_by(error: float) -> Callable[[dict[str, Any]], np.ndarray]:
    """A file that is wrong by `error` in one pixel, except at strength 0."""

    def run(feeds: dict[str, Any]) -> np.ndarray:
        output = correct(feeds)
        output[0, 0, 0, 0] += error * bool(feeds["strength"][0])
        return output

    return run


def check(run: Callable[[dict[str, Any]], np.ndarray], precision: Any = "float32") -> parity.ParityReport:
    return parity.check(tuple(parity.examples(Darken(), IMAGES, 2, 32, 8)), run, "the file", precision)


def test_a_correct_file_passes_and_is_measured() -> None:
    report = check(correct)
    assert report.max_difference == 0 and report.min_psnr_db == 200
    assert [(case.batch, case.height, case.width) for case in report.cases] == [
        *((1, 32, 32), (3, 24, 24), (2, 40, 32), (1, 32, 24))
    ]
    assert check(off_by(9e-4)).max_difference == pytest.approx(9e-4, rel=1e-3)


def test_the_reference_is_exact_and_keeps_cudnn() -> None:
    """Without cuDNN, one layer at Stable Diffusion's size takes gigabytes of a GPU."""
    seen = []

    class Watched(Darken):
        def forward(self, image: Tensor, edit: Tensor, strength: Tensor) -> Tensor:
            seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
            return super().forward(image, edit, strength)

    assert list(parity.examples(Watched(), IMAGES, 2, 32, 8))
    assert set(seen) == {(True, False)}


def test_psnr_is_that_of_the_worst_case() -> None:
    report = check(off_by(0.02), "int8")
    mean_squares = [0.02**2 / (3 * case.batch * case.height * case.width) for case in report.cases]
    assert report.min_psnr_db == pytest.approx(10 * np.log10(4 / max(mean_squares)), abs=1e-3)


@pytest.mark.parametrize(("precision", "passes", "fails"), [("float32", 9e-4, 1.1e-3), ("float16", 0.031, 0.032)])
def test_each_precision_has_its_bound(precision: str, passes: float, fails: float) -> None:
    check(off_by(passes), precision)
    with pytest.raises(ParityError, match=r"the file differs from PyTorch by .* at 32x32, batch 1, more than"):
        check(off_by(fails), precision)


def noisy(db: float, share: int = 1) -> Callable[[dict[str, Any]], np.ndarray]:
    """A file that is off by as many dB, in one of `share` pixels."""

    def run(feeds: dict[str, Any]) -> np.ndarray:
        output = correct(feeds)
        where = np.arange(output.size).reshape(output.shape) % share == 0
        error = np.float32(2 * 10 ** (-db / 20) * share**0.5)
        return output + error * where * (feeds["strength"] != 0)[:, None, None, None]

    return run


def test_float16_is_held_to_a_mean_and_to_nearly_all_pixels() -> None:
    report = check(noisy(50.1), "float16")
    assert report.min_psnr_db == pytest.approx(50.1, abs=0.01)
    assert report.quantile == pytest.approx(2 * 10 ** (-50.1 / 20), rel=1e-3)
    with pytest.raises(ParityError, match=r"comes within 49\.9 dB of float32 at 32x32, batch 1, less than 50 dB"):
        check(noisy(49.9), "float16")
    # One pixel in 200 is off by three levels: too many for a thousandth, though the mean and the maximum are fine.
    with pytest.raises(
        ParityError, match=r"by 0\.023 in more than 0\.1% of the pixels at 32x32, .* more than 0\.0078"
    ):
        check(noisy(61.8, share=200), "float16")
    one_pixel = check(off_by(0.03), "float16")
    assert one_pixel.max_difference == pytest.approx(0.03, rel=1e-3) and one_pixel.quantile < 1e-6


def test_int8_is_held_to_35_db() -> None:
    def noisy(scale: float) -> Callable[[dict[str, Any]], np.ndarray]:
        def run(feeds: dict[str, Any]) -> np.ndarray:
            output = correct(feeds)
            checkerboard = np.where(np.indices(output.shape).sum(0) % 2, 1, -1)
            return output + np.float32(scale) * checkerboard * (feeds["strength"] != 0)[:, None, None, None]

        return run

    check(noisy(2 * 10 ** (-35.1 / 20)), "int8")
    with pytest.raises(ParityError, match=r"comes within 34\.9 dB of float32 .*, less than 35 dB"):
        check(noisy(2 * 10 ** (-34.9 / 20)), "int8")


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_numbers_that_overflow_are_refused(precision: str) -> None:
    with pytest.raises(ParityError):
        check(off_by(float("nan")), precision)


def test_files_that_break_the_contract_are_refused() -> None:
    """They fail, return another shape, or change the image at strength 0."""

    def broken(feeds: dict[str, Any]) -> np.ndarray:
        raise RuntimeError("no kernel\nfor this")

    with pytest.raises(ParityError, match=r"the file fails at 32x32, batch 1, it was not written: no kernel$"):
        check(broken)
    with pytest.raises(ParityError, match=r"gives \(1, 3, 31, 32\) for PyTorch's \(1, 3, 32, 32\)"):
        check(lambda feeds: correct(feeds)[:, :, 1:])
    with pytest.raises(ParityError, match="changes the image at strength 0"):
        check(lambda feeds: correct(feeds) + np.float32(1e-6))
