"""Models are told apart by their content; what gigabytes hash to is remembered while the files stay the same."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from synth.errors import TeacherError
from synth.teacher import identity
from synth.teacher.identity import identify, sha256

MEMORY = "dds-distillery/digests.json"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def num_hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was hashed, by the files' own content."""
    done: list[str] = []
    remembered = identity._remembered

    def counting(name: str, paths: Any, compute: Any) -> str:
        return remembered(name, paths, lambda: (done.append(name), compute())[1])

    monkeypatch.setattr(identity, "_remembered", counting)
    return done


def large(path: Path, content: bytes = b"a") -> Path:
    """A file of two MiB that was written a while ago."""
    path.write_bytes(content * 2**21)
    settled(path)
    return path


def settled(*paths: Path) -> None:
    then = time.time() - 60
    for path in paths:
        os.utime(path, (then, then))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute passes: nobody can set the time at which a file's state changed."""
    now = time.time_ns
    monkeypatch.setattr(identity.time, "time_ns", lambda: now() + 60 * 10**9)


@pytest.mark.usefixtures("later")
def test_a_file_is_hashed_once(tmp_path: Path, num_hashed: list[str], cache: Path) -> None:
    path = large(tmp_path / "weights.safetensors")
    want = hashlib.sha256(path.read_bytes()).digest()
    assert [sha256(path), sha256(path)] == [want, want] and len(num_hashed) == 1
    path.write_bytes(b"b" * 2**21)
    os.utime(path, (time.time() - 60, time.time() - 60))
    assert sha256(path) == hashlib.sha256(b"b" * 2**21).digest(), "of the same size and time, with another content"
    moved = path.rename(tmp_path / "other.safetensors")
    assert sha256(moved) == sha256(moved) and len(num_hashed) == 3
    (cache / MEMORY).write_text('{"a": 1}')
    assert sha256(moved) == hashlib.sha256(b"b" * 2**21).digest(), "a damaged memory is no memory"


@pytest.mark.usefixtures("later")
def test_a_folder_is_the_same_anywhere(tmp_path: Path, num_hashed: list[str]) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    large(folder / "model.safetensors")
    want = hashlib.sha256(b"{}" + b"a" * 2**21).hexdigest()[:16]
    assert [identify(str(folder), TeacherError, "") for _ in range(3)] == [want] * 3 and len(num_hashed) == 1
    (folder / "more.json").write_text("1")
    assert identify(str(folder), TeacherError, "") != want and len(num_hashed) == 2
    assert identify("some/hub-id", TeacherError, "") == "some/hub-id"


def test_what_has_just_changed_is_not_remembered(tmp_path: Path, num_hashed: list[str], cache: Path) -> None:
    path = large(tmp_path / "weights.safetensors")
    assert sha256(path) == sha256(path) and len(num_hashed) == 2 and not (cache / MEMORY).exists()


@pytest.mark.usefixtures("later")
def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, num_hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))
    path = large(tmp_path / "weights.safetensors")
    assert sha256(path) == sha256(path) and len(num_hashed) == 2
