"""The one writer: whole or not at all, through no symlink, and nothing left behind."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from synth import files
from synth.errors import FileError
from synth.files import is_partial, remove_folder, whole_file, whole_folder, write_bytes, write_text

_SIZE = 300_000


def test_two_writers_never_mix_and_a_reader_sees_no_half(tmp_path: Path) -> None:
    target, stop = tmp_path / "stages.json", time.monotonic() + 1
    write_bytes(target, b"a" * _SIZE)
    broken: list[BaseException] = []

    def write(letter: bytes) -> None:
        try:
            while time.monotonic() < stop:
                write_bytes(target, letter * _SIZE)
        except BaseException as error:
            broken.append(error)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for writer in writers:
        writer.start()
    seen = set()
    while time.monotonic() < stop:
        content = target.read_bytes()
        assert len(content) == _SIZE
        assert len(set(content)) == 1
        seen.add(content[:1])
    for writer in writers:
        writer.join()
    assert not broken
    assert [entry.name for entry in tmp_path.iterdir()] == ["stages.json"]


def test_two_writers_of_a_folder_end_with_one_of_the_two(tmp_path: Path) -> None:
    target, stop = tmp_path / "student", time.monotonic() + 1
    broken: list[BaseException] = []

    def write(letter: str) -> None:
        try:
            while time.monotonic() < stop:
                with whole_folder(target) as part:
                    for name in ("config.json", "weights"):
                        (part / name).write_text(letter)
        except BaseException as error:
            broken.append(error)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not broken
    assert {path.name for path in target.iterdir()} == {"config.json", "weights"}
    assert len({path.read_text() for path in target.iterdir()}) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize("writer", [whole_file, whole_folder])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("x")])
def test_a_failed_write_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, writer: Callable[[Path], AbstractContextManager[Path]], failure: BaseException
) -> None:
    target = tmp_path / "it"
    with writer(target) as part:
        (part / "old" if part.is_dir() else part).write_text("old")

    expected = FileError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected), writer(target) as part:
        (part / "new" if part.is_dir() else part).write_text("new")
        raise failure
    assert [entry.name for entry in tmp_path.iterdir()] == ["it"]
    assert (target / "old" if target.is_dir() else target).read_text() == "old"


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"timings\.json cannot be written: No space left on device"):
        write_text(tmp_path / "timings.json", "{}")
    assert not list(tmp_path.iterdir())


def test_no_planted_symlink_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    # The names of earlier versions, which anybody could guess.
    (run / ".report.html.part").symlink_to(victim)
    (run / "report.html").symlink_to(victim)
    write_text(run / "report.html", "new")
    assert victim.read_text() == "mine"
    assert not (run / "report.html").is_symlink()

    # Even a name that was guessed is refused.
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0" * 16)
    (run / f".grid.png.{'0' * 16}.part").symlink_to(victim)
    with pytest.raises(FileError, match=r"grid\.png cannot be written"):
        write_text(run / "grid.png", "new")
    assert victim.read_text() == "mine"


def test_a_folder_s_symlink_is_replaced_itself(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("mine")
    (tmp_path / "student").symlink_to(elsewhere)
    with whole_folder(tmp_path / "student") as part:
        (part / "weights").write_text("new")
    (tmp_path / "doomed").symlink_to(elsewhere)
    remove_folder(tmp_path / "doomed")
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "student"]


def test_the_mode_is_any_other_file_s(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_leftovers_are_told_and_go_after_a_day(tmp_path: Path) -> None:
    old, young = (tmp_path / f".model.onnx.{digit * 16}.part" for digit in "ab")
    for path in (old, young):
        path.write_text("half")
        assert is_partial(path.name)
    os.utime(old, (0, 0))
    write_text(tmp_path / "model.onnx", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", young.name}
    for name in ("model.onnx", ".hidden", "x.part", ".x.part", "..part"):
        assert not is_partial(name)


def test_a_long_name_has_room(tmp_path: Path) -> None:
    write_text(tmp_path / ("ü" * 120), "whole")
    write_text(tmp_path / ("x" * 255), "whole")
    assert len(list(tmp_path.iterdir())) == 2
