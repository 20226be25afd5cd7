"""The benchmark of zero-shot methods: fair budgets, honest intervals."""

from distill.studies.benchmark import table
from distill.studies.methods import METHODS
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


def test_the_table_has_a_line_for_each_method() -> None:
    methods = {name: METHODS[name] for name in ("do nothing", "DDS")}
    lines = table(rows_of("do nothing", [20.0]) + rows_of("DDS", [25.0]), methods, "test").splitlines()
    assert len(lines) == 4
    assert lines[3].startswith("| DDS | rate") and "| 800 | 25.00 |" in lines[3]
