"""Tells models apart by their content, wherever they are.

What gigabytes hash to is remembered between processes, in the user's cache, for as long as the files' sizes, times
and places on the disk stay the same.
"""

import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from synth.errors import DistilleryError, FileError
from synth.files import is_junk, make_folder, write_text
from synth.state import parse_json, reading

logger = logging.getLogger(__name__)

_MIN_REMEMBERED = 2**20  # bytes; less is hashed at once
_MAX_REMEMBERED = 500  # entries
_SETTLED_NS = 2 * 10**9  # a file that changed just now may change again without another time

_Stamp = list[int]  # size, times and inode of each file
_Entry = tuple[_Stamp, str]  # when it was hashed, and the hash


def identify(name: str, error: type[DistilleryError], remedy: str) -> str:
    """Identify a model: a folder by its weights and configs, wherever it is; a Hub id by itself.

    Args:
        name: the folder or Hub id.
        error: the class to raise.
        remedy: what the user can do; it ends the message.

    Raises:
        error: if a file of the folder cannot be read.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name
    found = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
    paths = [path for path in found if not is_junk(path.name)]

    def compute() -> str:
        digest = hashlib.sha256()
        for path in paths:
            with reading(path, error, remedy), path.open("rb") as file:
                while block := file.read(_MIN_REMEMBERED):
                    digest.update(block)
        return digest.hexdigest()[:16]

    return _remembered(f"{folder.resolve()}{os.sep}", paths, compute)


def sha256(path: Path) -> bytes:
    """Hash a file's content. The Hub's cache names large files by their hash: these need not be read."""
    blob = path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
        return bytes.fromhex(blob.name)

    def compute() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return bytes.fromhex(_remembered(str(blob), [path], compute))


def _remembered(name: str, paths: Sequence[Path], compute: Callable[[], str]) -> str:
    """Return what was computed of files before, if they are the same, or compute it.

    Args:
        name: of the computation.
        paths: the files that it follows from.
        compute: returns hexadecimal digits.
    """
    try:
        stamp = _stamp(paths)
    except OSError:  # compute() says what is wrong
        return compute()
    if sum(stamp[0::4]) < _MIN_REMEMBERED:
        return compute()
    known = _read_memory()
    before = known.get(name)
    if before is not None and before[0] == stamp:
        return before[1]
    answer = compute()
    if _stamp(paths) == stamp and max(*stamp[1::4], *stamp[2::4]) < time.time_ns() - _SETTLED_NS:
        _write_memory({**{key: entry for key, entry in known.items() if key != name}, name: (stamp, answer)})
    return answer


def _stamp(paths: Sequence[Path]) -> _Stamp:
    states = [path.stat() for path in paths]
    return [value for at in states for value in (at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino)]


def _memory() -> Path:
    default = os.environ.get("LOCALAPPDATA", "~") if sys.platform == "win32" else "~/.cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or default).expanduser() / "dds-distillery" / "digests.json"


def _read_memory() -> dict[str, _Entry]:
    """What is remembered; nothing if there is no such file, or one that this project did not write."""
    try:
        known: dict[str, _Entry] = parse_json(_memory().read_bytes(), dict[str, _Entry])
    except (OSError, RuntimeError, ValueError):
        return {}
    return {name: entry for name, entry in known.items() if re.fullmatch("[0-9a-f]{16}|[0-9a-f]{64}", entry[1])}


def _write_memory(known: dict[str, _Entry]) -> None:
    newest = dict(list(known.items())[-_MAX_REMEMBERED:])
    try:
        make_folder(_memory().parent)
        write_text(_memory(), json.dumps(newest))
    except (FileError, RuntimeError) as error:  # a home that cannot be written: it is hashed again next time
        logger.debug(f"hashes are not remembered: {error}")
