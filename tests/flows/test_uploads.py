"""A run folder is uploaded beside its training, which waits for nothing but at its end."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from small_runs import paint, small_recipe

from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from flows.run.remote_copy import RemoteCopy
from flows.run.uploads import Uploads
from flows.training.student import train_student
from synth.dataset.store import Store
from synth.errors import DatasetError, RunError

SECONDS = 60.0  # within which a training that does not wait has gone on


@pytest.fixture
def recipe(tiny_sd_folder: Path) -> Iterator[Recipe]:
    fsspec.filesystem("memory").store.clear()
    yield small_recipe(tiny_sd_folder, 'operations.remote_dir="memory://runs"')
    fsspec.filesystem("memory").store.clear()


class Gate:
    """Storage whose uploads wait for a permission."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.sent: list[str] = []
        upload = Store.upload

        def waiting(store: Store, name: str, path: Path) -> None:
            self.entered.set()
            if not self.opened.wait(SECONDS):
                raise DatasetError("nobody went on")
            self.sent.append(name)
            upload(store, name, path)

        monkeypatch.setattr(Store, "upload", waiting)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def step(run: Path, number: int) -> Path:
    """A checkpoint; the log has a line more."""
    folder = run / "checkpoints" / f"step_{number:06d}"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(f"{number}")
    with (run / "metrics.jsonl").open("a") as log:
        log.write(f"{number}\n")
    return folder


def far(recipe: Recipe, there: Path) -> dict[str, str]:
    """What another machine finds, each file as its index says."""
    RemoteCopy("memory://runs", there).download()
    return {
        path.relative_to(there).as_posix(): path.read_text()
        for path in there.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_what_is_asked_for_meanwhile_follows_once(recipe: Recipe, gate: Gate, tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    first = step(run, 1)
    with Uploads(recipe, run) as uploads:
        uploads.ask()
        assert gate.entered.wait(SECONDS)
        # The run goes on under the upload: its log grows, the first checkpoint goes, others come.
        for number in (2, 3):
            step(run, number)
            uploads.ask()
        shutil.rmtree(first)
        gate.opened.set()
    want = {f"checkpoints/step_{number:06d}/state.json": f"{number}" for number in (2, 3)}
    assert far(recipe, tmp_path / "b" / "run") == {**want, "metrics.jsonl": "1\n2\n3\n"}
    assert gate.sent.count("metrics.jsonl") == 2 and len(gate.sent) == 2 + 3, "two uploads for three wishes"
    assert not list(run.glob(".upload*"))


def test_an_upload_is_whole_while_its_files_change(recipe: Recipe, gate: Gate, tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    first = step(run, 1)
    (run / "stages.json").write_text("old")
    with Uploads(recipe, run) as uploads:
        uploads.ask()
        assert gate.entered.wait(SECONDS)
        step(run, 2)
        shutil.rmtree(first)
        (run / "new").write_text("new")
        (run / "new").replace(run / "stages.json")
        gate.opened.set()
    found = far(recipe, tmp_path / "b" / "run")
    assert found == {"checkpoints/step_000001/state.json": "1", "metrics.jsonl": "1\n", "stages.json": "old"}


def test_a_disk_without_links_is_copied(
    recipe: Recipe, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    test_an_upload_is_whole_while_its_files_change(recipe, gate, tmp_path)


def test_errors_end_the_training_at_the_next_wish(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    step(run, 1)

    def broken(*_: object) -> None:
        raise DatasetError("the bucket is gone")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "upload", broken)
        with pytest.raises(DatasetError, match="the bucket is gone"), Uploads(recipe, run) as uploads:
            uploads.ask()
            assert uploads._thread is not None
            uploads._thread.join()
            uploads.ask()
        with pytest.raises(DatasetError, match="the bucket is gone"), Uploads(recipe, run) as uploads:
            uploads.ask()
    assert not list(run.glob(".upload*"))
    (run / "report.html").symlink_to("/etc/passwd")
    with pytest.raises(RunError, match=f"{run}/report.html is a symlink"), Uploads(recipe, run) as uploads:
        uploads.ask()


def test_a_training_that_is_stopped_cuts_its_upload_off(recipe: Recipe, gate: Gate, tmp_path: Path) -> None:
    """SIGTERM and Ctrl-C come as exceptions. The copy stays valid, and the next upload completes it."""
    run = tmp_path / "a" / "run"
    step(run, 1)
    step(run, 2)
    with pytest.raises(SystemExit), Uploads(recipe, run) as uploads:
        uploads.ask()
        assert gate.entered.wait(SECONDS)
        uploads.ask()
        threading.Timer(0.1, gate.opened.set).start()
        raise SystemExit(143)
    assert len(gate.sent) == 1 and not list(run.glob(".upload*"))
    assert far(recipe, tmp_path / "b" / "run") == {}, "no index, no files"
    with Uploads(recipe, run) as uploads:
        uploads.ask()
    assert len(far(recipe, tmp_path / "c" / "run")) == 3


def test_what_a_killed_process_left_is_removed(recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    step(run, 1)
    left, mine = run / ".upload.0123456789abcdef.part", run / ".upload.mine"
    for folder in (left, mine):
        (folder / "checkpoints").mkdir(parents=True)
    with Uploads(recipe, run) as uploads:
        uploads.ask()
    assert not left.exists() and mine.exists()


def test_a_training_does_not_wait_for_slow_storage(recipe: Recipe, tmp_path: Path, gate: Gate) -> None:
    """The first upload hangs until the last step is logged."""
    run = RunFolder.open_or_create(recipe, tmp_path / "run")
    run.use_dataset(paint(recipe, tmp_path / "images"))

    def open_at_the_end() -> None:
        while not run.metrics.exists() or len(run.metrics.read_text().splitlines()) < recipe.training.steps:
            if gate.opened.wait(0.05):
                return
        gate.opened.set()

    watcher = threading.Thread(target=open_at_the_end, daemon=True)
    watcher.start()
    train_student(recipe, run)
    watcher.join(SECONDS)
    index = Store("memory://runs/run").read("index.json").decode()
    assert "checkpoints/step_000004/state.json" in index and gate.sent
