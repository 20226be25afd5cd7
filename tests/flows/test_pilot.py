"""A pilot runs all stages in small, and the full run continues with its images."""

import json
from pathlib import Path

import pytest
from small_runs import SMALL, command

from flows.config.loading import load_recipe
from flows.run import pilot
from flows.run.folder import RunFolder
from synth.dataset.image_dataset import ImageDataset


def test_a_pilot_scales_its_schedules_and_has_its_own_name() -> None:
    paper = load_recipe(
        "sofas", ["training.preset=paper", "training.steps=125_000", "training.lambda_id_steps=20_000"]
    )
    small = pilot.pilot_of(paper)
    assert (small.name, small.scenes.count, small.training.steps) == ("sofas-pilot", 200, 200)
    assert small.training.warmup_steps == 10_000 * 200 // 125_000
    assert small.training.guidance_warmup_steps == small.training.lambda_id_steps == 20_000 * 200 // 125_000
    assert small.training.learning_rate == paper.training.learning_rate
    assert (small.scenes.slots, small.edits) == (paper.scenes.slots, paper.edits)
    tiny = load_recipe("sofas", ["scenes.count=7", "training.steps=5", "training.warmup_steps=3"])
    assert pilot.pilot_of(tiny).scenes.count == 7
    assert pilot.pilot_of(tiny).training.warmup_steps == 3, "a run that is shorter than a pilot stays as it is"


def test_the_full_run_goes_on_with_what_the_pilot_painted(
    prefect_server: None, light_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot, "NUM_IMAGES", 4)
    monkeypatch.setattr(pilot, "NUM_STEPS", 2)
    overrides = [argument for key in SMALL for argument in ("--set", key)]
    out = tmp_path / "runs" / "full"
    arguments = ["run", "sofas", "--teacher", light_sd_folder, *overrides, "--out", out]

    result = command(*arguments, "--pilot")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("without --pilot: it resumes from 4 painted images\n")
    small = tmp_path / "runs" / "full-pilot"
    assert {"model.onnx", "report.html", "student"} <= {path.name for path in small.iterdir()}
    assert len((small / "metrics.jsonl").read_text().splitlines()) == 2
    made = sorted(path.name for path in out.iterdir())
    assert made == [".lock", "dataset", "recipe.toml"], "nothing else of the full run"
    assert RunFolder(out).load_recipe().training == load_recipe("sofas", SMALL).training
    first = out / "dataset" / "data" / "train-00000.parquet"
    painted, content = first.stat().st_mtime_ns, first.read_bytes()

    result = command(*arguments)
    assert result.exit_code == 0, result.output
    assert (first.stat().st_mtime_ns, first.read_bytes()) == (painted, content)
    assert len(ImageDataset(out / "dataset")) == 6 and (out / "model.onnx").exists()
    for name, folder in (("sofas", "full"), ("sofas-pilot", "full-pilot")):
        latest = json.loads((tmp_path / "runs" / f"{name}.latest.json").read_text())
        assert latest["model"] == f"{folder}/model.onnx"

    late = command(*arguments, "--pilot")
    assert late.exit_code == 2 and "is beyond a pilot" in late.stderr
