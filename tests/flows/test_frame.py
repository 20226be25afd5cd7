"""The frame around the stages: entered once a run, and the same for a single verb."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_runs import command, paint, small_recipe

from flows.run.folder import RunFolder
from flows.stages import distill, frame
from flows.stages.pipeline import pipeline

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_run_enters_it_once(finished: Path, tiny_sd_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Downloaded, opened and locked once; recipe.toml is not written again; what is done is not done again."""
    out = shutil.copytree(finished, tmp_path / "small")
    entered: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            entered[name] += 1
            return function(*args, **kwargs)

        return call

    for name in ("download", "upload", "exclusive_gpu"):
        monkeypatch.setattr(frame, name, counted(name, getattr(frame, name)))
    monkeypatch.setattr(RunFolder, "open_or_create", counted("open", RunFolder.open_or_create))
    written = (out / "recipe.toml").stat().st_mtime_ns
    report = (out / "report.html").stat().st_mtime_ns
    assert pipeline(small_recipe(tiny_sd_folder), out) == out / "model.onnx"
    assert entered == {"download": 1, "open": 1, "exclusive_gpu": 1}, "nothing was made, so nothing is uploaded"
    assert (out / "recipe.toml").stat().st_mtime_ns == written
    assert (out / "report.html").stat().st_mtime_ns == report


def test_what_a_stage_made_is_timed_and_uploaded(
    finished: Path, tiny_sd_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    out = shutil.copytree(finished, tmp_path / "small")
    uploads: list[Path] = []
    monkeypatch.setattr(frame, "upload", lambda recipe, folder: uploads.append(folder))
    before = RunFolder(out).seconds()

    @frame.stage("measuring")
    def work(run: frame.OpenRun, made: bool) -> None:
        if made:
            run.folder.mark_done("of a test", "1")

    with frame.open_run("test {name}", small_recipe(tiny_sd_folder), out) as run:
        work(run, made=False)
        assert uploads == [] and RunFolder(out).seconds() == before
        work(run, made=True)
        assert uploads == [out]
    after = RunFolder(out).seconds()
    assert {name for name in after if after[name] != before.get(name)} == {"measuring"}


def test_the_verb_distill_follows_the_operations(tiny_sd_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    launched: list[int] = []
    monkeypatch.setattr(distill, "distill_together", lambda recipe, run: launched.append(recipe.operations.processes))
    dataset = paint(small_recipe(tiny_sd_folder), tmp_path / "set")
    arguments = ["--teacher", tiny_sd_folder, "--data", dataset, "--set", "operations.processes=3"]
    result = command("distill", "sofas", *arguments, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert launched == [3]
