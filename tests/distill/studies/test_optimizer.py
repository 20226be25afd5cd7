"""Maps of what an iteration changes."""

import numpy as np
import pytest

from distill.settings import EditSettings
from distill.studies.optimizer import Optimizer
from synth.teacher.teacher import Teacher

SETTINGS = EditSettings()


def test_optimizer_maps(tiny_teacher: Teacher) -> None:
    study = Optimizer(SETTINGS, num_scenes=1, at=(1, 3))
    rows = [row for unit in study.units() for row in study.measure(tiny_teacher, unit)]
    for method in ("DDS, SGD", "DDS, Adam", "SDS, SGD"):
        first, last = (row for row in rows if row["method"] == method)
        assert first["update"] == pytest.approx(first["moved"], abs=1e-5), "one iteration is all that has moved"
        assert np.linalg.norm(last["moved"]) > np.linalg.norm(last["update"])
        assert 0 < last["moved_inside"] < 1
    assert study.plot(rows).width > 2 * 128
    assert "DDS, Adam" in study.finding(rows)
