"""Edits of the user's own images."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from click.testing import CliRunner
from PIL import Image

from distill.settings import EditSettings
from distill.studies.real_images import RealImages
from flows.cli import main
from flows.evaluation.studies import run_study
from synth.teacher.teacher import Teacher

SETTINGS = EditSettings()


def test_own_images_are_edited_with_and_without_a_source(tiny_teacher: Teacher, tmp_path: Path) -> None:
    file = tmp_path / "room.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(file)
    study = RealImages(SETTINGS, (file,), "a red sofa", "a sofa", at=(1, 2))
    run_study(study, tiny_teacher, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    assert [(row["source"], row["iterations"]) for row in rows] == [
        *(("a sofa", at) for at in (0, 1, 2)),
        *(("", at) for at in (0, 1, 2)),
    ]
    assert rows[0]["moved"] == 0 < rows[2]["moved"]
    with Image.open(tmp_path / "out" / "plot.png") as plot:
        assert plot.height > 2 * 128


def test_real_images_ask_for_images(tmp_path: Path) -> None:
    ran = CliRunner().invoke(main, ["study", "real-images", "--out", str(tmp_path / "out")])
    assert ran.exit_code == 2
    assert "name them, and give --prompt" in ran.output
    assert not (tmp_path / "out").exists()
