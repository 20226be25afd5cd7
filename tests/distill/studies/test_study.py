"""The studies: what must hold whatever the teacher knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from distill.settings import EditSettings
from distill.studies.ablations import SCENES
from distill.studies.benchmark import Sweep
from distill.studies.methods import Optimized
from distill.studies.study import Row, Study, Unit
from flows.evaluation.studies import run_study
from synth.errors import RunError
from synth.teacher.teacher import Teacher

SETTINGS = EditSettings()

TINY_SCENES = SCENES.model_copy(update={"image_size": 64, "num_inference_steps": 1})


@dataclass(frozen=True)
class Interrupted(Study):
    """Counts what it did, and can be made to stop."""

    stop: Path
    name = "interrupted"
    question = "?"

    def units(self) -> list[Unit]:
        return [{"place": place} for place in range(3)]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        if unit["place"] == 1 and not self.stop.exists():
            self.stop.touch()
            raise KeyboardInterrupt
        with (self.stop.parent / "done").open("a") as log:
            log.write(str(unit["place"]))
        return [{"place": unit["place"], "value": None if unit["place"] == 0 else 1.5}]

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        return Image.new("RGB", (len(rows), 1))

    def finding(self, rows: Sequence[Row]) -> str:
        return str([row["value"] for row in rows])


def test_a_stopped_study_resumes(tiny_teacher: Teacher, tmp_path: Path) -> None:
    study, out = Interrupted(tmp_path / "stop"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tiny_teacher, out)
    assert not (out / "rows.parquet").exists()
    assert run_study(study, tiny_teacher, out) == "[None, 1.5, 1.5]"
    assert (tmp_path / "done").read_text() == "012", "no piece was done twice"
    assert pq.read_table(out / "rows.parquet")["place"].to_pylist() == [0, 1, 2]
    assert (out / "finding.txt").read_text() == "?\n[None, 1.5, 1.5]\n"
    with pytest.raises(RunError, match="another study"):
        run_study(Interrupted(tmp_path / "other"), tiny_teacher, out)


def test_pieces_of_other_settings_are_not_reused(
    tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"DDS": (Optimized(EditSettings(iterations=1, learning_rate=1.0, guidance_scale=3.0)),)}
    monkeypatch.setattr("distill.studies.benchmark.GRIDS", grid)
    run_study(Sweep(1), tiny_teacher, tmp_path)
    grid["DDS"] = (Optimized(EditSettings(iterations=1, learning_rate=2.0, guidance_scale=3.0)),)
    assert "rate 2" in run_study(Sweep(1), tiny_teacher, tmp_path)
    assert len(list((tmp_path / "pieces").glob("*.parquet"))) == 2
