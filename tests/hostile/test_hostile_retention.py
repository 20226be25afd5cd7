"""Only what proves to be a finished run of the recipe is deleted, and a leftover of that deletion."""

import os
import time
from pathlib import Path

import pytest

from flows.config.loading import load_recipe
from flows.run import retention
from flows.run.folder import RunFolder
from flows.run.retention import clear_old_runs

RECIPE = load_recipe("demo", ["operations.keep_runs=1"])


def ended(out: Path, age: int) -> Path:
    run = RunFolder.open_or_create(RECIPE, out)
    run.mark_done("export", "made")
    run.report.write_text("a report")
    os.utime(run.report, (time.time() - age,) * 2)
    return out


def test_what_is_not_a_run_stays(tmp_path: Path) -> None:
    newest, oldest = ended(tmp_path / "new", 0), ended(tmp_path / "old", 900)
    (tmp_path / ".old-photos").mkdir()
    (tmp_path / ".old-photos" / "one.png").write_bytes(b"mine")
    (tmp_path / ".old-notes").write_text("mine")
    (tmp_path / f".old-x-{'0' * 16}").mkdir()
    (tmp_path / "file").write_text("mine")
    elsewhere = ended(tmp_path / "beyond" / "run", 950)
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / ".old-link-0123456789abcdef").symlink_to(elsewhere)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    damaged = ended(tmp_path / "damaged", 960)
    (damaged / "stages.json").write_text("[[[")
    odd = ended(tmp_path / "odd", 970)
    (odd / "stages.json").unlink()
    (odd / "stages.json").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    assert clear_old_runs(RECIPE, newest) == [oldest]
    assert {path.name for path in tmp_path.iterdir()} == before - {"old"}
    assert (tmp_path / ".old-photos" / "one.png").read_bytes() == b"mine" and (elsewhere / "recipe.toml").exists()


def test_a_killed_deletion_is_ended_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, _ = ended(tmp_path / "new", 0), ended(tmp_path / "old", 900)
    monkeypatch.setattr(retention, "_delete", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        clear_old_runs(RECIPE, newest)
    monkeypatch.undo()
    (leftover,) = tmp_path.glob(".old-*")
    copied = leftover.with_name(".old-renamed-0123456789abcdef")
    copied.mkdir()
    (copied / ".being-deleted").write_text(leftover.name)
    assert clear_old_runs(RECIPE, newest) == []
    assert not leftover.exists() and copied.exists(), "its marker names another folder"
