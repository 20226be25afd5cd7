"""Report and model card are as new as the run, after a kill and an overruled verdict, too."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from finished_runs import ended
from small_runs import run_command, small_recipe

from flows.reports.pages import write_pages
from flows.run.folder import RunFolder
from flows.run.promotion import promote
from flows.stages import frame
from flows.stages.pipeline import pipeline
from synth.dataset.store import Store

FAR = "memory://runs"


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("DISTILLERY_TRUST", "1")
    fsspec.filesystem("memory").store.clear()
    yield FAR
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(finished, tmp_path / "runs" / "small")))


def times(run: RunFolder) -> list[int]:
    return [path.stat().st_mtime_ns for path in (run.report, run.card, run.stages)]


def test_an_overruled_verdict_reaches_the_report(run: RunFolder, tiny_sd_folder: Path) -> None:
    recipe = small_recipe(tiny_sd_folder)
    promote(recipe, ended(recipe, run.path.with_name("measured")))
    pipeline(recipe, run.path)
    assert "Not promoted: it was not measured" in run.report.read_text()
    (run.path.parent / "sofas.latest.json").unlink()
    pipeline(recipe, run.path)
    page = run.report.read_text()
    assert "It is the first model of its recipe here" in page and "Not promoted" not in page
    before = times(run)
    pipeline(recipe, run.path)
    assert times(run) == before, "nothing has changed"


def test_an_overruled_verdict_reaches_the_storage(far: str, run: RunFolder, tiny_sd_folder: Path) -> None:
    recipe = small_recipe(tiny_sd_folder, f'operations.remote_dir="{far}"')
    promote(recipe, ended(recipe, run.path.with_name("measured")))
    pipeline(recipe, run.path)
    store = Store(f"{far}/small")
    assert json.loads(store.read("promotion.json"))["promoted"] is False
    for place in (Store(run.path.parent), Store(far)):
        place.remove("sofas.latest.json")
    pipeline(recipe, run.path)
    assert json.loads(Store(far).read("sofas.latest.json"))["model"] == "small/model.onnx"
    assert json.loads(store.read("promotion.json"))["promoted"] is True
    assert store.read("report.html") == run.report.read_bytes() and b"Not promoted" not in store.read("report.html")
    assert store.read("stages.json") == run.stages.read_bytes()


def test_a_kill_before_the_report_leaves_none_behind(
    run: RunFolder, tiny_sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(frame, "write_pages", killed)
    before = times(run)
    again = "operations.timeout_hours=7"
    assert run_command(tiny_sd_folder, run.path, again).exit_code == 1
    assert times(run)[:2] == before[:2]
    monkeypatch.undo()
    result = run_command(tiny_sd_folder, run.path, again)
    assert result.exit_code == 0 and "timeout_hours = 7" in run.report.read_text()
    assert "is complete" not in result.stdout and "is complete" in run_command(tiny_sd_folder, run.path, again).stdout


def test_pages_are_written_again_only_for_what_they_show(run: RunFolder, tiny_sd_folder: Path) -> None:
    recipe = small_recipe(tiny_sd_folder)
    assert not write_pages(recipe, run), "the run has written them"
    run.mark_done("evaluate-shifted", "another split")
    assert not write_pages(recipe, run)
    for path in (run.report, run.card):
        path.unlink()
        assert write_pages(recipe, run) and path.exists() and not write_pages(recipe, run)
    run.add_seconds("training", 3600)
    assert write_pages(recipe, run) and "1:00:0" in run.report.read_text()
    for stage in ("export model.pixel.onnx", "evaluate"):
        run.mark_done(stage, "done anew, by whatever command")
        assert write_pages(recipe, run) and not write_pages(recipe, run), stage
    longer = small_recipe(tiny_sd_folder, "operations.timeout_hours=3")
    assert write_pages(longer, run) and "timeout_hours = 3" in run.report.read_text()
