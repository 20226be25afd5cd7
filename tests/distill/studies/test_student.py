"""A student beside zero-shot edits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from distill.evaluation.examples import drawn_examples
from distill.settings import EditSettings, EvaluationSettings
from distill.studies.methods import DoNothing, Optimized
from distill.studies.student import STUDENT, Distilled
from flows.evaluation.studies import run_study
from synth.errors import RunError
from synth.teacher.teacher import Teacher


def test_a_student_is_compared_on_the_same_images(tiny_teacher: Teacher, tmp_path: Path) -> None:
    edits = {"blue": {"color": "blue"}, "red-leather": {"color": "red", "material": "leather"}}
    examples = {edit: drawn_examples(factors, 2, "test") for edit, factors in edits.items()}

    def oracle(images: np.ndarray, edit: str) -> np.ndarray:
        """Knows the answers."""
        for image, example in zip(images, examples[edit], strict=False):
            assert (image == example.image).all()
        return np.stack([example.truth for example in examples[edit][: len(images)] if example.truth is not None])

    methods = {"do nothing": DoNothing(), "DDS": Optimized(EditSettings(iterations=2))}
    study = Distilled(oracle, "a file", edits, EvaluationSettings(num_scenes=2), methods)
    finding = run_study(study, tiny_teacher, tmp_path)
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [(row["edit"], row["method"], row["scene"]) for row in rows] == [
        (edit, method, scene) for edit in edits for method in (STUDENT, *methods) for scene in (0, 1)
    ]
    assert all(row["psnr_all"] == 60 and row["calls"] == 1 for row in rows if row["method"] == STUDENT)
    assert all(row["psnr_all"] < 40 and row["calls"] == 8 for row in rows if row["method"] == "DDS")
    assert all(f"{STUDENT} minus {name}, with" in finding for name in methods)
    with pytest.raises(RunError, match="another study"):  # the rows of one file are not taken for another's
        run_study(replace(study, model="another"), tiny_teacher, tmp_path)
