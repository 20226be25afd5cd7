"""The benchmark of zero-shot methods: fair budgets, honest intervals."""

import numpy as np
import pytest

from distill.examples import drawn_examples
from distill.settings import EditSettings
from distill.studies.benchmark import table
from distill.studies.methods import CALLS, GRIDS, METHODS, DoNothing, Optimized, SDEdit, VAECeiling, describe
from distill.studies.rows import mean, paired_difference
from distill.studies.study import Row
from synth.teacher.teacher import Teacher


def test_every_optimisation_spends_the_same_calls_and_every_method_tries_as_many_settings() -> None:
    swept = [method for grid in GRIDS.values() for method in grid]
    assert {method.calls for method in (*swept, *METHODS.values()) if isinstance(method, Optimized)} == {CALLS}
    assert {len(grid) for grid in GRIDS.values()} == {6}
    assert len({describe(method) for method in GRIDS["DDS"]}) == 6
    published = METHODS["DDS as published"]
    assert isinstance(published, Optimized)
    assert published.settings == EditSettings(learning_rate=2.0, guidance_scale=7.5, iterations=200)


def test_sdedit_goes_from_the_image_to_another_with_its_strength(tiny_teacher: Teacher) -> None:
    examples = drawn_examples({"color": "red"}, 2, "development")
    weak, strong = (SDEdit(strength, 2.0, 10)(tiny_teacher, examples) for strength in (0.1, 0.9))
    moved = [float(np.abs(pictures[0].astype(float) - examples[0].image).mean()) for pictures in (weak, strong)]
    assert 0 < moved[0] < moved[1]


@pytest.mark.parametrize("teacher", ["tiny_v_teacher", "tiny_3_teacher"])
def test_sdedit_knows_other_families(teacher: str, request: pytest.FixtureRequest) -> None:
    opened: Teacher = request.getfixturevalue(teacher)
    examples = drawn_examples({"color": "red"}, 2, "development")
    together, alone = (SDEdit(0.5, 2.0, 10)(opened, some) for some in (examples, examples[:1]))
    assert [picture.shape for picture in together] == [(128, 128, 3)] * 2
    assert np.abs(alone[0].astype(float) - together[0]).max() <= 2, "an image does not depend on its neighbours"


def test_the_baselines(tiny_teacher: Teacher) -> None:
    examples = drawn_examples({"color": "red"}, 2, "development")
    assert np.array_equal(DoNothing()(tiny_teacher, examples)[1], examples[1].image)
    ceiling = VAECeiling()(tiny_teacher, examples)
    assert len(ceiling) == 2 and ceiling[0].shape == (128, 128, 3)


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


def test_the_table_has_a_line_for_each_method() -> None:
    methods = {name: METHODS[name] for name in ("do nothing", "DDS")}
    lines = table(rows_of("do nothing", [20.0]) + rows_of("DDS", [25.0]), methods, "test").splitlines()
    assert len(lines) == 4
    assert lines[3].startswith("| DDS | rate") and "| 800 | 25.00 |" in lines[3]
