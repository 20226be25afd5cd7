"""Each diagnostic on arrays that have the fault, and on arrays that do not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from distill.evaluation.diagnostics import ChangeMetrics, diagnose, measure_change


def rooms(num: int = 4, seed: int = 0) -> NDArray[np.uint8]:
    """Images with smooth walls of several colours and a square of another in the middle, (num, 64, 64, 3)."""
    generator = np.random.default_rng(seed)
    images = np.empty((num, 64, 64, 3), np.uint8)
    images[:] = generator.integers(60, 200, (num, 1, 1, 3))
    images[:, 20:44, 20:44] = generator.integers(60, 200, (num, 1, 1, 3))
    return images + generator.integers(0, 6, images.shape, dtype=np.uint8)


def names(before: NDArray[np.uint8], after: NDArray[np.uint8], whole_image: bool = False) -> list[str]:
    return [found.name for found in diagnose(measure_change(before, after), whole_image)]


def recoloured(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What an edit should do: the square red, and the rest as it was."""
    after = images.copy()
    after[:, 20:44, 20:44] = (180, 40, 50)
    return after


def test_a_good_edit_has_no_diagnostic() -> None:
    before = rooms()
    metrics = measure_change(before, recoloured(before))
    assert diagnose(metrics) == []
    assert metrics.changed_share == pytest.approx(24 * 24 / 64**2, abs=0.01)
    assert metrics.background_change == 0.0
    assert metrics.variety is not None and 0.5 < metrics.variety < 1


def test_nothing_moves() -> None:
    before = rooms()
    assert names(before, before) == ["nothing moves"]
    grain = before + np.random.default_rng(1).integers(0, 12, before.shape, dtype=np.uint8)
    assert names(before, grain) == ["nothing moves"], "what one cannot see is no change"


def test_the_background_is_lost() -> None:
    before = rooms()
    after = np.clip(recoloured(before).astype(int) + 30, 0, 255).astype(np.uint8)
    assert names(before, after) == ["background lost"]
    assert names(before, after, whole_image=True) == []


def test_a_background_that_is_half_there_is_not_lost() -> None:
    before = rooms()
    after = recoloured(before)
    after[:, :32] = np.clip(after[:, :32].astype(int) + 40, 0, 255).astype(np.uint8)
    assert names(before, after) == []


def test_colours_saturate() -> None:
    before = rooms()
    after = before.copy()
    after[:, 20:44, 20:44] = (255, 0, 90)
    assert names(before, after) == ["colours saturate"]
    assert measure_change(after, after).clipped_share == 0.0, "what was so before is no fault of the edit"


def test_one_output_for_all() -> None:
    before = rooms()
    after = before.copy()
    after[:, 5:59] = before[0, 5:59]
    assert "one output for all" in names(before, after)
    assert names(before[:1], recoloured(before)[:1]) == [], "one image cannot tell"


def test_images_of_any_shape_are_measured() -> None:
    before = np.full((2, 9, 50, 3), 100, np.uint8)
    metrics = measure_change(before, before + 20)
    assert metrics.changed_share == 1.0 and metrics.background_change == 20.0
    assert metrics.variety is None, "inputs that are all alike have no variety to keep"


def test_a_diagnostic_has_its_measurement_and_advice() -> None:
    (diagnostic,) = diagnose(ChangeMetrics(0.001, 0.0, 0.0, 1.0))
    assert diagnostic.measured == "0.1% of the image changes visibly"
    assert "training.guidance_end" in diagnostic.advice
    assert [len(diagnose(ChangeMetrics(0.5, 99.0, 0.9, 0.1)))] == [3]
