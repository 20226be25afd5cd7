"""Pixel networks with one thing changed at a time."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from distill.settings import PixelSettings, TrainingSettings
from distill.students import new_student
from distill.studies.ablations import EDITS, SCENES
from distill.studies.compression import VARIANTS, Compression
from flows.evaluation.studies import run_study
from synth.dataset.building import synthesize
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import Template
from synth.teacher.teacher import Teacher

TINY_SCENES = SCENES.model_copy(update={"image_size": 64, "num_inference_steps": 1, "count": 4})


def test_the_variants_of_a_pixel_network(
    tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven steps of each variant: all end as other networks, the pairs are shared, and nothing is done twice."""
    monkeypatch.setattr("distill.studies.compression._FEW", 2)
    monkeypatch.setattr("distill.compression.refinement.NUM_STEPS", 1)
    monkeypatch.setattr("distill.compression.refinement.LEARNING_RATE", 0.1)
    few = VARIANTS["400 images"]
    monkeypatch.setattr(
        "distill.studies.compression.VARIANTS", {**VARIANTS, "400 images": type(few)(few.overrides, num_images=2)}
    )
    edits = {name: EDITS[name] for name in ("red-leather", "blue-fabric")}
    student = new_student(tiny_teacher, dict.fromkeys(edits, "a sofa"), TrainingSettings(student="compact"))
    for weight in student.unet.last.parameters():
        nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(0))
    synthesize(tiny_teacher, TINY_SCENES, tmp_path / "set", progress=False)
    out = tmp_path / "out"
    study = Compression(
        student.eval(),
        "one",
        ImageDataset(tmp_path / "set"),
        Template(TINY_SCENES),
        edits,
        PixelSettings(widths=(8, 12), batch_size=2, learning_rate=0.1),
        folder=out,
        num_steps=7,
        num_images=3,
        num_scenes=1,
    )
    finding = run_study(study, tiny_teacher, out)
    rows = pq.read_table(out / "rows.parquet").to_pylist()
    assert [row["variant"] for row in rows] == [name for name in VARIANTS for _ in edits]
    pngs = {row["variant"]: row["png"] for row in rows if row["edit"] == "red-leather"}
    assert len(set(pngs.values())) == len(VARIANTS), "each learned something else"
    assert all(np.isfinite(row["psnr_all"]) for row in rows)
    assert all(f"\n{name}: " in finding for name in VARIANTS) and "7 steps on 3 images" in finding
    made = sorted(path.name for path in (out / "pairs").iterdir())
    assert made == ["change_of_pixels-2", "change_of_pixels-3", "plain_change-3"]
    before = next((out / "pieces").glob("000-*")).stat().st_mtime_ns
    assert run_study(study, tiny_teacher, out) == finding
    assert next((out / "pieces").glob("000-*")).stat().st_mtime_ns == before
