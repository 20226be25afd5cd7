"""The one writer of files and folders: each is there whole or not at all, and two writers of one never mix.

What is not whole yet lies beside its target as `.NAME.RANDOM.part`, a name that nobody can guess and that is created,
never opened, so that no symlink planted in the folder is followed. It is flushed, then renamed over the target; a
target that is a symlink is replaced itself. A failed write removes it; a killed process leaves it, and every reader
passes over such names (`is_partial`).
"""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synth.errors import FileError

_PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.part", re.DOTALL)
_MAX_NAME_BYTES = 200  # of the target's name in the temporary one's, for a file system takes 255 in all
_ABANDONED_AFTER = 24 * 3600  # seconds: no writer rests so long
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


def write_bytes(path: Path, content: bytes) -> None:
    """Put a whole file in place of an older one.

    Raises:
        FileError: if it cannot be written, because the disk is full, say; the older file stays, and nothing else.
    """
    with whole_file(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """The same for text, in UTF-8.

    Raises:
        FileError: as `write_bytes` does.
    """
    write_bytes(path, text.encode())


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """An empty file to fill; it takes the target's place at the end, if nothing was raised.

    >>> with whole_file(folder / "weights.safetensors") as part:  # doctest: +SKIP
    ...     save_file(tensors, part)

    Raises:
        FileError: if it cannot be written.
    """
    with _explained(path, "written"):
        part = _beside(path)
        # The kernel applies the umask, so that the file's mode is any other file's.
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
        try:
            yield part
            _flush(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        _flush(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes the target's place at the end, if nothing was raised.

    Raises:
        FileError: if it cannot be written.
    """
    with _explained(path, "written"):
        part = _beside(path)
        part.mkdir()
        try:
            yield part
            for below in [*part.rglob("*"), part]:
                _flush(below)
            _exchange(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        _flush(path.parent)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside a target, for what is to be `put` there once it is checked; it is gone at the end.

    Raises:
        FileError: if it cannot be written.
    """
    with _explained(path, "written"):
        part = _beside(path)
        part.mkdir()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


def put(draft: Path, path: Path) -> None:
    """Move a finished file of a `scratch_folder` to its place.

    Raises:
        FileError: if it cannot be moved.
    """
    with _explained(path, "written"):
        _flush(draft)
        os.replace(draft, path)
        _flush(path.parent)


def remove_folder(path: Path) -> None:
    """Take a folder away, or a symlink to one; it is renamed first, so that no half of it is ever taken for one.

    Raises:
        FileError: if it cannot be removed.
    """
    with _explained(path, "removed"):
        doomed = _beside(path)
        os.rename(path, doomed)
        _remove(doomed)


def remove_partials(folder: Path) -> None:
    """Take away what killed processes left in a folder that nobody else writes to now."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        if is_partial(entry.name):
            _remove(entry)


def is_partial(name: str) -> bool:
    """Whether a name is one of those under which this writer keeps what is not whole."""
    return _PARTIAL.fullmatch(name) is not None


@contextmanager
def _explained(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise FileError(f"{path} cannot be {done}: {reason}; what was whole stays whole") from error


def _beside(path: Path) -> Path:
    """A free name beside the target; what was abandoned there long ago goes."""
    if not path.name or path.name == "..":
        raise IsADirectoryError(f"{path} names no file")
    name = path.name.encode(errors="surrogateescape")[:_MAX_NAME_BYTES].decode(errors="ignore")
    for entry in os.scandir(path.parent):
        if entry.name.startswith(f".{name}.") and is_partial(entry.name):
            _remove_abandoned(Path(entry.path))
    return path.with_name(f".{name}.{secrets.token_hex(8)}.part")


def _remove_abandoned(part: Path) -> None:
    try:
        age = time.time() - part.lstat().st_mtime
    except FileNotFoundError:  # its writer ended meanwhile
        return
    if age > _ABANDONED_AFTER:
        _remove(part)


def _exchange(part: Path, path: Path) -> None:
    """Rename a folder to a name that another may have, or may get at any moment from another writer."""
    while True:
        former = _set_aside(path)
        try:
            os.rename(part, path)
        except OSError as error:
            if error.errno in _TAKEN:  # another writer came between: ours goes over it
                continue
            if former is not None:
                os.rename(former, path)
                former = None
            raise
        finally:
            if former is not None:
                _remove(former)
        return


def _set_aside(path: Path) -> Path | None:
    """Rename what is there, if anything is."""
    former = _beside(path)
    try:
        os.rename(path, former)
    except FileNotFoundError:
        return None
    return former


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    if path.is_symlink():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
