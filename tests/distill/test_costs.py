"""What a training computes, against the counts of the shapes, and what the pages say of the hours."""

import re
from pathlib import Path

import pytest
from large_models import SD_15, XL, model

from distill.costs import A100, STABLE_DIFFUSION_15, hours_of_training, passes_per_image
from distill.settings import TrainingSettings
from distill.training.flops import flops_of

ROOT = Path(__file__).parents[2]
EDITS = {"a": "", "b": ""}


def test_passes_follow_the_student_and_its_settings() -> None:
    assert passes_per_image(TrainingSettings(), 4) == 2 + 8 + 12
    assert passes_per_image(TrainingSettings(edits_per_image=1), 4) == 2 + 2 + 3
    assert passes_per_image(TrainingSettings(gradient_checkpointing=True), 4) == 2 + 8 + 16
    compact = TrainingSettings(student="compact")
    assert passes_per_image(compact, 4, student=0.01) == pytest.approx(2 + 8 + 0.12)


def test_the_known_count_is_that_of_the_shapes(tmp_path: Path) -> None:
    counted = flops_of(model(tmp_path, SD_15), EDITS, TrainingSettings(), 512)
    known = STABLE_DIFFUSION_15
    assert counted.teacher == pytest.approx(known.teacher, rel=0.002)
    assert counted.student == pytest.approx(known.student, rel=0.002)
    assert counted.decode == pytest.approx(known.decode, rel=0.002)
    step = TrainingSettings(steps=1)
    found = [counted.of_training(step, num) / 1e12 for num in (1, 4, 6)]
    assert found == pytest.approx([11.2, 35.3, 51.4], abs=0.1)
    assert counted.of_painting(50) / 1e12 == pytest.approx(82.8, abs=0.1)


def test_a_compact_student_costs_next_to_nothing(tmp_path: Path) -> None:
    compact = TrainingSettings(student="compact")
    counted = flops_of(model(tmp_path, XL, "StableDiffusionXLPipeline"), EDITS, compact, 1024)
    assert counted.teacher / 1e12 == pytest.approx(6.76, abs=0.01)
    assert 0 < counted.student < counted.teacher / 100


def hours(num_edits: int, **settings: object) -> str:
    return f"{hours_of_training(A100, TrainingSettings(**settings), num_edits):.0f}"


def test_pages_say_the_hours_that_are_counted() -> None:
    """Both readings of the paper's batch of 2: two images, each through all edits; or two pairs."""
    six, four, one = hours(6), hours(4), hours(4, edits_per_image=1)
    assert hours(6, edits_per_image=1) == one == "5" and (four, six) == ("13", "19")
    page = (ROOT / "docs" / "teachers.md").read_text()
    (row,) = re.findall(r"^\| one A100, by FLOPs \|(.*)\|$", page, re.MULTILINE)
    assert [cell.strip() for cell in row.split("|")] == [f"{one} h", f"{four} h", f"{six} h"]
    assert f"some {six} hours on an A100" in " ".join((ROOT / "README.md").read_text().split())
