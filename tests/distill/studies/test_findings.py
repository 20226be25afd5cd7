"""Findings and plots follow the rows alone."""

from distill.settings import EditSettings
from distill.studies.leakage import Leakage
from distill.studies.regularized_sds import WEIGHTS, RegularizedSDS
from distill.studies.study import Row

SETTINGS = EditSettings()


def test_findings_follow_the_rows() -> None:
    def row(method: str, psnr_all: float) -> Row:
        others = {"psnr_inside": 12.0, "psnr_outside_to_input": 30.0, "sharpness_inside": 0.5, "right": 1.0}
        return {"method": method, "psnr_all": psnr_all, **others}

    rows = [row(f"SDS, weight {weight:g}", 20 - abs(weight - 0.3)) for weight in WEIGHTS] + [row("DDS", 25.0)]
    assert "The best weight by PSNR over all, 0.3:" in RegularizedSDS(SETTINGS).finding(rows)

    def read(factor: str, after: str, asked: bool) -> Row:
        return {"edit": "red", "factor": factor, "asked": asked, "before": "white", "after": after}

    leaks = [read("wall", "white", False), read("wall", "pink", False), read("color", "red", True)]
    assert Leakage(SETTINGS).finding(leaks).startswith("50% of what was not asked about")
    assert Leakage(SETTINGS).plot(leaks).width > 600
