"""The benchmark of zero-shot methods: each edit measured in both compositions, honest intervals."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from distill.evaluation.examples import drawn_examples
from distill.evaluation.metrics import psnr
from distill.settings import EditSettings
from distill.studies.benchmark import COMPOSED, DECODED, EDITS, Benchmark, table
from distill.studies.methods import METHODS, DoNothing, Method, Optimized
from distill.studies.study import Row
from flows.evaluation.studies import run_study
from synth.teacher.teacher import Teacher


def rows_of(method: str, psnr_all: dict[str, float]) -> list[Row]:
    same: Row = {
        "method": method,
        "split": "test",
        "edit": "red",
        "scene": 0,
        "seconds": 1.0,
        "psnr_inside": 19.0,
        "psnr_outside_to_input": 30.0,
        "ssim_all": 0.9,
        "sharpness_inside": 1.0,
        "right": 1.0,
    }
    return [{**same, "composition": composition, "psnr_all": value} for composition, value in psnr_all.items()]


def test_the_table_has_a_line_for_each_method() -> None:
    methods = {name: METHODS[name] for name in ("do nothing", "DDS")}
    rows = rows_of("do nothing", {DECODED: 18.0, COMPOSED: 20.0}) + rows_of("DDS", {DECODED: 22.0, COMPOSED: 25.0})
    lines = table(rows, methods, "test").splitlines()
    assert len(lines) == 4
    assert lines[3].startswith("| DDS | rate")
    assert "| 800 | 22.00 | 30.00 | 0.90 | 1.00 | 25.00 | 19.00 | 30.00 | 0.90 | 1.00 | 1.00 | 1.00 |" in lines[3]


@pytest.fixture(scope="module")
def measured(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], str]:
    settings = EditSettings(iterations=1, learning_rate=1.0, guidance_scale=3.0)
    methods: dict[str, Method] = {"do nothing": DoNothing(), "SDS": Optimized(settings), "DDS": Optimized(settings)}
    out: Path = tmp_path_factory.mktemp("benchmark")
    finding = run_study(Benchmark(methods, num_scenes=1), tiny_teacher, out)
    return pq.read_table(out / "rows.parquet").to_pylist(), finding


def test_both_compositions_of_the_same_edit_are_measured(measured: tuple[list[Row], str]) -> None:
    rows, _ = measured
    places = [(row["split"], row["method"], row["composition"], row["edit"]) for row in rows]
    assert len(set(places)) == len(rows) == 2 * 3 * 2 * len(EDITS)
    example = drawn_examples(EDITS[0], 1, "test")[0]
    assert example.truth is not None
    by_composition = {
        row["composition"]: row
        for row in rows
        if (row["split"], row["method"], row["edit"]) == ("test", "do nothing", example.edit)
    }
    nothing = psnr(np.asarray(example.image)[None], np.asarray(example.truth)[None])
    assert by_composition[COMPOSED]["psnr_all"] == pytest.approx(nothing), "the input itself"
    assert by_composition[DECODED]["psnr_all"] < nothing, "and what the VAE loses of it"


def test_gains_compare_within_a_composition(measured: tuple[list[Row], str]) -> None:
    """Two methods of the same settings gain nothing over each other, in either; the composition's gain is its own."""
    lines = measured[1].splitlines()
    for composition in (DECODED, COMPOSED):
        line = next(line for line in lines if line.startswith(f"test, {composition}, DDS over SDS: "))
        assert "+0.00 dB (+0.00 to +0.00)" in line
    line = next(line for line in lines if line.startswith(f"test, DDS, {COMPOSED} over {DECODED}: "))
    assert line.split(": ")[1].startswith("+") and not line.split(": ")[1].startswith("+0.00")
