"""The best network is kept, and a training that gets no better stops."""

import json
from pathlib import Path

import pytest
import torch
from small_runs import small_recipe

from distill.settings import TrainingSettings
from distill.train import StepRecord
from distill.translator import LatentTranslator, load_translator, new_translator
from flows.run_folder import RunFolder
from flows.stopping import Stopping
from synth.errors import TrainingError
from synth.teacher import Teacher


def record(step: int, student: LatentTranslator) -> StepRecord:
    return StepRecord(step, 0, 0, 1, 1, 1, 1, 1, 1, 1, student)


def test_it_stops_after_so_many_that_are_no_better(
    tiny_teacher: Teacher, tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.evaluate.has_true_answers", lambda recipe: True)  # any teacher can be measured
    recipe = small_recipe(tiny_sd_folder, "training.patience=2")
    run = RunFolder.claim(recipe, tmp_path / "run")
    settings = TrainingSettings(preset="short", student="compact")
    good, bad = (new_translator(tiny_teacher, dict.fromkeys(recipe.edits, "a sofa"), settings) for _ in range(2))
    with torch.no_grad():  # one changes nothing, the other adds noise
        bad.unet.last.weight.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    stopping = Stopping(recipe, run, tiny_teacher)
    assert [stopping.see(record(1, bad)), stopping.see(record(2, good)), stopping.see(record(3, bad))] == [False] * 3

    again = Stopping(recipe, run, tiny_teacher)  # killed behind step 2's checkpoint, and gone on with
    assert not again.see(record(3, bad))
    assert again.see(record(4, bad))
    assert again.verdict().startswith("the best on development scenes was that of step 2, ")
    assert [row["step"] for row in json.loads(run.development.read_text())] == [1, 2, 3, 4]
    z_hat = torch.randn(1, 4, 8, 8)
    assert not load_translator(run.best)(z_hat, torch.tensor([0])).any()


def test_where_there_are_no_true_answers_it_is_refused(
    tiny_teacher: Teacher, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    recipe = small_recipe(tiny_sd_folder, "training.patience=2")
    with pytest.raises(TrainingError, match="patience needs true answers"):
        Stopping(recipe, RunFolder(tmp_path), tiny_teacher)
