"""The best student is kept, and a training that gets no better stops."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.configuration_utils import register_to_config
from small_runs import paint, small_recipe
from torch import nn

from distill.settings import TrainingSettings
from distill.students import Student, load_student, new_student
from flows.run.folder import RunFolder
from flows.training.early_stopping import EarlyStopping
from synth.dataset.image_dataset import ImageDataset
from synth.teacher.teacher import Teacher

NO_DATASET: Any = None  # drawn scenes judge


def test_it_stops_when_patience_runs_out(
    tiny_teacher: Teacher, tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Let drawn scenes judge any teacher.
    monkeypatch.setattr("flows.evaluation.scenes.has_true_answers", lambda recipe: True)
    recipe = small_recipe(tiny_sd_folder, "training.patience=2")
    run = RunFolder.open_or_create(recipe, tmp_path / "run")
    settings = TrainingSettings(preset="short", student="compact")
    good, bad = (new_student(tiny_teacher, dict.fromkeys(recipe.edits, "a sofa"), settings) for _ in range(2))
    with torch.no_grad():  # the good student changes nothing, the bad one adds noise
        bad.unet.last.weight.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    stopping = EarlyStopping(recipe, run, tiny_teacher, NO_DATASET)
    early_stops = [stopping.should_stop(step, student) for step, student in enumerate((bad, good, bad), start=1)]
    assert early_stops == [False] * 3

    again = EarlyStopping(recipe, run, tiny_teacher, NO_DATASET)  # killed after step 2's checkpoint, and resumed
    assert not again.resume(Path("step_000002"))
    before = run.development.read_bytes()
    assert not again.should_stop(3, bad)
    assert run.development.read_bytes() == before, "the student of step 3 was evaluated already"
    assert again.should_stop(4, bad)
    assert again.verdict().startswith("the best student is that of step 2, ")
    assert [row["step"] for row in json.loads(run.development.read_text())] == [1, 2, 3, 4]
    z_hat = torch.randn(1, 4, 8, 8)
    assert not load_student(again.best)(z_hat, torch.tensor([0])).any()


class Shifting(Student):
    """Adds the same amount to every latent."""

    @register_to_config
    def __init__(self, amount: float, edit_names: list[str]) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(amount))

    def forward(self, latents: torch.Tensor, edit: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(latents) + self.shift


def test_without_true_answers_it_stops_when_the_images_settle(
    tiny_teacher: Teacher, tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(tiny_sd_folder, "training.patience=2")
    painted = ImageDataset(paint(recipe, tmp_path / "dataset"))
    monkeypatch.setattr("distill.students.UNetStudent", Shifting)  # the class that `best/` is loaded as
    monkeypatch.setattr("distill.evaluation.diagnostics.MAX_CLIPPED_SHARE", 1.0)  # a random VAE clips at once
    monkeypatch.setattr("distill.evaluation.diagnostics.MIN_VARIETY", 0.0)
    stopping = EarlyStopping(recipe, RunFolder.open_or_create(recipe, tmp_path / "run"), tiny_teacher, painted)
    shifts = {100: 0.0, 200: 0.0, 300: 0.0, 400: 5.0, 500: 20.0, 600: 20.01, 700: 20.0}
    stopped = [step for step, shift in shifts.items() if stopping.should_stop(step, Shifting(shift, ["red"]))]
    assert stopped == [700], "patience does not count while nothing moves"
    assert stopping.verdict().startswith("the best student is that of step 500, ")


def test_without_true_answers_a_damaged_student_is_no_better(
    tiny_teacher: Teacher, tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(tiny_sd_folder, "training.patience=1")
    painted = ImageDataset(paint(recipe, tmp_path / "dataset"))
    monkeypatch.setattr("distill.evaluation.diagnostics.MAX_CLIPPED_SHARE", -1.0)  # everything counts as damage
    run = RunFolder.open_or_create(recipe, tmp_path / "run")
    stopping = EarlyStopping(recipe, run, tiny_teacher, painted)
    assert stopping.should_stop(1, Shifting(5.0, ["red"]))
    assert stopping.verdict() == "no student was good" and stopping.best is None
    assert "colours saturate" in json.loads(run.development.read_text())[0]["said"]


def test_a_checkpoint_killed_before_its_evaluation_gets_one(
    tiny_teacher: Teacher, tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.evaluation.scenes.has_true_answers", lambda recipe: True)
    recipe = small_recipe(tiny_sd_folder, "training.patience=1")
    run = RunFolder.open_or_create(recipe, tmp_path / "run")
    settings = TrainingSettings(preset="short", student="compact")
    student = new_student(tiny_teacher, dict.fromkeys(recipe.edits, "a sofa"), settings)
    checkpoint = tmp_path / "step_000004"
    student.save_pretrained(checkpoint / "student")
    stopping = EarlyStopping(recipe, run, tiny_teacher, NO_DATASET)
    assert not stopping.resume(checkpoint)
    assert stopping.best == run.best / "step_000004"
    student.save_pretrained(tmp_path / "step_000008" / "student")
    again = EarlyStopping(recipe, run, tiny_teacher, NO_DATASET)
    assert again.resume(tmp_path / "step_000008"), "no better than the student of step 4"
    assert again.best == run.best / "step_000004"
