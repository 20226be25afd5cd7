"""Files on disk: written whole or not at all, and read with one clear error for a damaged one.

Every file of the project is written here. The temporary file lies in the target's folder, so that the rename is
atomic; its name cannot be guessed and is created exclusively, so that nobody can plant a link in its place and two
writers never share one; it is gone if the write fails, on a full disk too. What a killed process leaves behind is
told by its name (`is_partial`) and read by nobody.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from synth.errors import DistilleryError, first_line

T = TypeVar("T")

_SUFFIX = ".part"
_MAX_NAME = 100  # characters of the target's name in the temporary one: file systems allow 255 bytes


def is_partial(name: str) -> bool:
    """Whether a file's or folder's name is that of a write in progress, or of one that was killed."""
    return name.startswith(".") and name.endswith(_SUFFIX)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; afterwards the file stands at `path`, in place of an older one.

    A link at `path` is replaced, not followed. If the block raises, the older file stays as it was.
    """
    temporary = _temporary(path)
    # Exclusively: an existing file or link of that name would be an error, not a target.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder to fill; afterwards it stands at `path`, in place of an older folder."""
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        for entry in [*temporary.rglob("*"), temporary]:
            flush(entry)
        if path.exists() or path.is_symlink():
            remove_folder(path)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(path.parent)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, for a file that is written in several steps and then moved there."""
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def remove_folder(path: Path) -> None:
    """Delete a folder, or a link to one; renamed first, so that a kill leaves no half of it under its own name."""
    doomed = _temporary(path)
    os.rename(path, doomed)
    if doomed.is_symlink():
        doomed.unlink()
    else:
        shutil.rmtree(doomed)


def remove_partials(folder: Path) -> None:
    """Delete what killed writers left in a folder. Only where this process is the folder's one writer."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if is_partial(entry.name):
            with suppress(FileNotFoundError):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def flush(path: Path) -> None:
    """Make sure that a file's content, or a folder's entries, are on the disk."""
    is_folder = path.is_dir()
    if os.name == "nt" and is_folder:  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        with suppress(OSError) if is_folder else nullcontext():  # some network file systems flush no folders
            os.fsync(handle)
    finally:
        os.close(handle)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:_MAX_NAME]}.{secrets.token_hex(8)}{_SUFFIX}")


@contextmanager
def reading(path: object, error: type[DistilleryError], remedy: str) -> Iterator[None]:
    """Turn whatever a damaged file makes its reader raise into one line that names the file.

    Args:
        path: of the file, for the message.
        error: to raise.
        remedy: what to do, as the end of the message.
    """
    try:
        yield
    except (DistilleryError, MemoryError):
        raise
    except Exception as problem:  # json, tomllib, Arrow, safetensors and Pillow share no base class
        raise error(f"{path} cannot be read ({first_line(problem)}): {remedy}") from problem


def read_json(path: Path, kind: type[T] | Any, error: type[DistilleryError], remedy: str) -> T:
    """A JSON file's value, checked for its type.

    Args:
        path: of the file.
        kind: a type as pydantic knows them: `dict[str, str]`, a dataclass, a TypedDict.
        error: to raise.
        remedy: what to do, as the end of the message.

    Raises:
        error: if the file is missing, is not JSON, or holds a value of another type.
    """
    with reading(path, error, remedy):
        value: T = parse_json(path.read_bytes(), kind)
    return value


def parse_json(content: bytes | str, kind: type[T] | Any) -> T:
    """A JSON value, checked for its type; nesting without end and numbers out of range are errors as others are.

    Raises:
        ValueError: in one line.
    """
    try:
        value: T = TypeAdapter(kind).validate_json(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
    return value
