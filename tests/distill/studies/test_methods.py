"""The methods of the benchmark: fair budgets, and baselines."""

import numpy as np
import pytest

from distill.evaluation.examples import drawn_examples
from distill.settings import EditSettings
from distill.studies.methods import CALLS, GRIDS, METHODS, DoNothing, Optimized, SDEdit, VAECeiling, describe
from synth.teacher.teacher import Teacher


def test_budgets_are_fair() -> None:
    """Every optimization spends the same calls, and every method tries as many settings."""
    swept = [method for grid in GRIDS.values() for method in grid]
    assert {method.calls for method in (*swept, *METHODS.values()) if isinstance(method, Optimized)} == {CALLS}
    assert {len(grid) for grid in GRIDS.values()} == {6}
    assert len({describe(method) for method in GRIDS["DDS"]}) == 6
    published = METHODS["DDS as published"]
    assert isinstance(published, Optimized)
    assert published.settings == EditSettings(learning_rate=2.0, guidance_scale=7.5, iterations=200)


def test_sdedit_moves_further_with_its_strength(tiny_teacher: Teacher) -> None:
    examples = drawn_examples({"color": "red"}, 2, "development")
    weak, strong = (SDEdit(strength, 2.0, 10)(tiny_teacher, examples) for strength in (0.1, 0.9))
    moved = [float(np.abs(images[0].astype(float) - examples[0].image).mean()) for images in (weak, strong)]
    assert 0 < moved[0] < moved[1]


@pytest.mark.parametrize("teacher", ["tiny_v_teacher", "tiny_3_teacher"])
def test_sdedit_knows_other_families(teacher: str, request: pytest.FixtureRequest) -> None:
    opened: Teacher = request.getfixturevalue(teacher)
    examples = drawn_examples({"color": "red"}, 2, "development")
    together, alone = (SDEdit(0.5, 2.0, 10)(opened, some) for some in (examples, examples[:1]))
    assert [image.shape for image in together] == [(128, 128, 3)] * 2
    assert np.abs(alone[0].astype(float) - together[0]).max() <= 2, "an image does not depend on its neighbours"


def test_the_baselines(tiny_teacher: Teacher) -> None:
    examples = drawn_examples({"color": "red"}, 2, "development")
    assert np.array_equal(DoNothing()(tiny_teacher, examples)[1], examples[1].image)
    ceiling = VAECeiling()(tiny_teacher, examples)
    assert len(ceiling) == 2 and ceiling[0].shape == (128, 128, 3)
