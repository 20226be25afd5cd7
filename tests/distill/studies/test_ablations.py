"""Trainings with one thing changed at a time."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from distill.studies.ablations import SCENES, VARIANTS, Ablations
from flows.evaluation.studies import run_study
from synth.teacher.teacher import Teacher

TINY_SCENES = SCENES.model_copy(update={"image_size": 64, "num_inference_steps": 1})


def test_the_ablations(tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of three variants, whole and again: what differs between them, and that nothing is done twice."""
    few = {name: VARIANTS[name] for name in ("as it is", "SDS", "one edit alone", "one fixed pair")}
    monkeypatch.setattr("distill.studies.ablations.VARIANTS", few)
    monkeypatch.setattr("distill.studies.ablations.SCENES", TINY_SCENES)
    study, out = Ablations(tmp_path / "out", num_steps=2, num_images=4, num_scenes=2), tmp_path / "out"
    finding = run_study(study, tiny_teacher, out)
    rows = pq.read_table(out / "rows.parquet").to_pylist()
    assert {row["variant"] for row in rows} == set(few)
    assert {row["step"] for row in rows} == {1, 2}
    last = {row["variant"]: row for row in rows if row["step"] == 2 and row["edit"] == "red-leather"}
    assert last["as it is"]["calls"] == 2 * 4 * (2 + 2 * 4)  # steps, images, passes
    assert last["SDS"]["calls"] == 2 * 4 * 2 * 4
    assert last["one edit alone"]["calls"] == 2 * 4 * (2 + 2)
    assert {row["edit"] for row in rows if row["variant"] == "one edit alone"} == {"red-leather"}
    assert all(part in finding for part in ("as it is: ", "SDS: ", "of the variety"))
    assert len({row["png"] for row in last.values()}) == len(few), "each variant learned something else"
    with Image.open(out / "plot.png") as plot:
        assert plot.height > 4 * 128
    before = next((out / "pieces").glob("000-*")).stat().st_mtime_ns
    assert run_study(study, tiny_teacher, out) == finding
    assert next((out / "pieces").glob("000-*")).stat().st_mtime_ns == before
