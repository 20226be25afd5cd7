"""Files that cannot be written: every verb that writes ends in one line, before any work."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from small_runs import command
from tiny_model import noise

import flows.cli
from synth.errors import FileError
from synth.files import check_target

ROOT = Path(__file__).parents[3]
IMAGE = "room.png"
VERBS = {
    "init": ["init", "x", "--subject", "a street", "--edit", "snow=in snow"],
    "preview": ["preview", "demo"],
    "run": ["run", "demo"],
    "synthesize": ["synthesize", "demo"],
    "import-photos": ["import-photos", "."],
    "distill": ["distill", "demo", "--data", "nowhere"],
    "edit": ["edit", IMAGE, "--prompt", "a street"],
    "translate": ["translate", "model.onnx", IMAGE, "--edit", "all"],
    "study": ["study", "steps"],
    "evaluate edits": ["evaluate", "edits"],
    "evaluate pie-bench": ["evaluate", "pie-bench", "--data", ".", "--method", "dds"],
    "page": ["page", "run"],
}
FILES = {"init", "preview"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Image.fromarray(noise(16, 16)).save(tmp_path / IMAGE)
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_verbs_that_write_are_listed() -> None:
    verbs = dict(flows.cli.main.commands)
    verbs |= {f"evaluate {name}": verb for name, verb in verbs.pop("evaluate").commands.items()}  # type: ignore[attr-defined]
    with_out = {name for name, verb in verbs.items() if any("--out" in parameter.opts for parameter in verb.params)}
    assert with_out == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("out", ["file/x", "file/deep/x", "/proc/x/y", f"new/{'x' * 256}", f"{'x' * 300}/y"])
def test_what_cannot_be_written_is_one_line(verb: str, out: str, place: Path) -> None:
    result = command(*VERBS[verb], "--out", out)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {out} cannot be written: "), line
    assert sorted(path.name for path in place.iterdir()) == ["file", IMAGE]
    assert (place / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_for_a_folder_and_a_folder_for_a_file(verb: str, place: Path) -> None:
    (place / "folder").mkdir()
    out = "folder" if verb in FILES else "file"
    result = command(*VERBS[verb], "--out", out)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert ("it is a folder" if verb in FILES else "file is not a folder") in result.stderr
    assert not list((place / "folder").iterdir()) and (place / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_without_permission(verb: str, place: Path) -> None:
    (place / "locked").mkdir(mode=0o500)
    result = command(*VERBS[verb], "--out", "locked/x")
    assert result.exit_code == 2
    assert result.stderr == "error: locked/x cannot be written: Permission denied; what was whole stays whole\n"


def test_a_free_target_leaves_nothing_behind(tmp_path: Path) -> None:
    check_target(tmp_path / "a" / "b", is_folder=True)
    check_target(tmp_path / "a" / "b.html", is_folder=False)
    check_target(tmp_path, is_folder=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileError, match="gone is not a folder"):
        check_target(tmp_path / "gone", is_folder=True)


def test_an_empty_name_is_refused(place: Path) -> None:
    result = command(*VERBS["translate"], "--out", "")
    assert result.exit_code == 2 and "'--out': the name is empty" in result.stderr


def test_a_disk_that_fills_up_ends_in_a_line(model: Path, place: Path) -> None:
    """A limit on the size of files fails as a full disk does, in the middle of a write."""
    for number in range(3):
        Image.fromarray(noise(200, 200, number)).save(place / f"{number}.png")
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "from flows.cli import main; main()"
    )
    words = ["translate", str(model), "0.png", IMAGE, "1.png", "--edit", "red leather", "--out", "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) >= 2 and all("cannot be written: File too large" in line for line in errors)
    assert {path.name for path in (place / "out").glob("*.png")} <= {"room_red-leather.png", "contact_sheet.png"}
    assert not [path for path in (place / "out").iterdir() if path.name.endswith(".part")]
    # With room again, the batch goes on.
    again = command(*words)
    assert again.exit_code == 0, again.output
    assert np.asarray(Image.open(place / "out" / "1_red-leather.png")).shape == (200, 200, 3)


def test_a_full_disk_ends_a_batch_at_once(model: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        Image.fromarray(noise(16, 16, number)).save(place / f"{number}.png")
    fsync = os.fsync

    def full(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode) and len(list((place / "out").glob("[!.]*"))) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    result = command("translate", model, *sorted(place.glob("[0-9].png")), "--edit", "red leather", "--out", "out")
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "2_red-leather.png cannot be written: No space left on device" in errors[0]
    assert errors[1] == "error: stopped before 2 more images: repeat the command"
    assert len(list((place / "out").glob("[0-9]*"))) == 2 == len(result.stdout.split())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_a_library_cannot_write_is_one_line(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "weights.bin")

    monkeypatch.setitem(flows.cli.main.commands, "fail", click.Command("fail", callback=fail))
    result = CliRunner().invoke(flows.cli.main, ["fail"])
    assert result.exit_code == 2
    assert result.stderr == f"error: weights.bin cannot be read or written: {os.strerror(number)}\n"
