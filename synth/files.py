"""The one writer of files and folders: each appears whole or not at all, and two writers of one target never mix.

An unfinished file lies beside its target as `.NAME.RANDOM.part`. Nobody can guess that name, and the file is created,
never opened, so that no symlink planted in the folder is followed. It is flushed, then renamed over the target; a
target that is a symlink is itself replaced. A failed write removes the unfinished file. A killed process leaves it
behind, and every reader skips such names (`is_partial`).
"""

import errno
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synth.errors import FileError, os_reason

_PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.part", re.DOTALL)
_MAX_NAME_BYTES = 200  # of the target's name inside the temporary name: file systems allow 255 in all
_MAX_FILE_NAME = 255  # bytes
_ABANDONED_AFTER = 24 * 3600  # seconds without a write: its process is dead
_JUNK = frozenset(("thumbs.db", "desktop.ini", "@eadir", "lost+found", "__macosx"))
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, replacing an older one.

    Raises:
        FileError: if it cannot be written, for example because the disk is full; the older file stays.
    """
    with whole_file(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, replacing an older file.

    Raises:
        FileError: as `write_bytes`.
    """
    write_bytes(path, text.encode())


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield an empty file to fill. On exit without an error, it replaces the target.

    >>> with whole_file(folder / "weights.safetensors") as part:  # doctest: +SKIP
    ...     save_file(tensors, part)

    Raises:
        FileError: if it cannot be written.
    """
    with _explained(path, "written"):
        part = _beside(path)
        # The kernel applies the umask, so the file gets the mode of any other file. O_EXCL follows no symlink.
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            yield part
            _flush(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        _flush(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill. On exit without an error, it replaces the target.

    Raises:
        FileError: if it cannot be written.
    """
    with _explained(path, "written"), scratch_folder(path) as part:
        yield part
        for below in [*part.rglob("*"), part]:
            _flush(below)
        _exchange(part, path)
        _flush(path.parent)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside a target, for drafts to check before they are `put` there. Removed on exit.

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


def check_target(path: Path, is_folder: bool) -> None:
    """Refuse a place that cannot be written, before anything is made for it. Nothing is left there.

    Args:
        path: a folder or file that may exist.
        is_folder: which of the two it is to be.

    Raises:
        FileError: if something else is there, or the nearest folder that exists takes no files.
    """
    with _explained(path, "written"):
        if any(len(os.fsencode(part)) > _MAX_FILE_NAME for part in path.parts):
            raise OSError(errno.ENAMETOOLONG, "its name is too long")
        if not is_folder and path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        place = next(
            place for place in ((path,) if is_folder else ()) + tuple(path.parents) if os.path.lexists(place)
        )
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{place} is not a folder")
        # What permissions promise, a file server or a read-only disk may not keep.
        tempfile.TemporaryFile(dir=place).close()


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        FileError: if it cannot be made.
    """
    with _explained(path, "made"):
        path.mkdir(parents=True, exist_ok=True)


def put(draft: Path, path: Path) -> None:
    """Move a finished draft to its place, over an older file.

    Raises:
        FileError: if it cannot be moved.
    """
    with _explained(path, "written"):
        _flush(draft)
        os.replace(draft, path)
        _flush(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder, or a symlink to one. It is renamed first, so that nobody reads half a folder.

    Raises:
        FileError: if it cannot be removed.
    """
    with _explained(path, "removed"):
        doomed = _beside(path)
        os.rename(path, doomed)
        _remove(doomed)


def remove_partials(folder: Path) -> None:
    """Remove what killed processes left in a folder. Nobody else may be writing to it."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        if is_partial(entry.name):
            _remove(entry)


def is_partial(name: str) -> bool:
    """Return whether this writer uses such a name for unfinished files."""
    return _PARTIAL.fullmatch(name) is not None


def is_junk(name: str) -> bool:
    """Return whether a system leaves files or folders of such a name behind: hidden ones, and a few by name."""
    return name.startswith(".") or name.casefold() in _JUNK


@contextmanager
def _explained(path: Path, done: str) -> Iterator[None]:
    """Turn an OSError into a FileError that names the target."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{path} cannot be {done}: {os_reason(error)}; what was whole stays whole") from error


def _beside(path: Path) -> Path:
    """Return a free name beside the target, and remove what was abandoned there long ago."""
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
    except FileNotFoundError:  # its writer has just finished
        return
    if age > _ABANDONED_AFTER:
        _remove(part)


def _exchange(part: Path, path: Path) -> None:
    """Rename a folder to a name that may be taken, or that another writer may take at any moment."""
    while True:
        former = _set_aside(path)
        try:
            os.rename(part, path)
        except OSError as error:
            if error.errno in _TAKEN:  # another writer was faster: replace its folder
                continue
            if former is not None:  # put the older folder back
                os.rename(former, path)
                former = None
            raise
        finally:
            if former is not None:
                _remove(former)
        return


def _set_aside(path: Path) -> Path | None:
    """Rename what is at the path, if anything; return its new name."""
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
    on_windows = sys.platform == "win32"  # which flushes no folders, and files by a handle that may write
    if path.is_symlink() or (on_windows and path.is_dir()):
        return
    handle = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
