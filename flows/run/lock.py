"""One writer at a time in a run folder: a second command is told who is at work there, and does nothing.

    .lock         what the operating system locks; the file itself stays
    .owner.json   who holds it: process, host, since when, by which command

The system frees the lock when its process ends, however it ends, so what a killed one left behind is taken over. It
holds for all processes of a machine, in containers too. Some network storage does not pass locks on to other
machines. So the owner gives a sign of life every half minute, and another machine takes a folder over only after
three minutes of silence.
"""

import json
import logging
import os
import platform
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from typing_extensions import TypedDict

from flows.config.processes import processes_of
from flows.config.schema import Recipe
from synth.errors import FileError, RunError, os_reason
from synth.files import scratch_folder, write_text
from synth.state import parse_json
from synth.urls import redact

logger = logging.getLogger(__name__)

_LOCK = ".lock"
_OWNER = ".owner.json"
_SIGN_OF_LIFE = 30.0  # seconds
_SILENCE = 180.0  # seconds; network storage may show a time that is a minute old
_MAX_COMMAND = 200  # characters
_BOOT = Path("/proc/sys/kernel/random/boot_id")

# Which folders this chain of calls holds. Prefect hands it on to a flow's tasks, as it does its own context; another
# thread has a context of its own.
_held: ContextVar[frozenset[Path]] = ContextVar("held run folders", default=frozenset())


class FolderInUseError(RunError):
    """Another command is at work on the run folder."""


class _Owner(TypedDict):
    """The content of .owner.json."""

    pid: int
    host: str
    boot: str
    """Of the kernel, which containers share; "" where the system does not say."""
    since: str
    command: str


@contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Be the only writer in a run folder, which is created if needed. Enter it again within as often as you like.

    Raises:
        FolderInUseError: if another command is at work there; nothing was written.
        FileError: if the folder cannot be created or locked.
    """
    place = Path(os.path.realpath(folder))  # a symlink to the folder is the same folder
    if place in _held.get():
        yield
        return
    lock = _acquired(folder, place)
    try:
        _refuse_another_machine(folder, place)
        _introduce(place)
        token = _held.set(_held.get() | {place})
        try:
            with _signs_of_life(place / _OWNER):
                yield
        finally:
            _held.reset(token)
            (place / _OWNER).unlink(missing_ok=True)
    finally:
        lock.release()


@contextmanager
def exclusive_run(recipe: Recipe, folder: Path) -> Iterator[None]:
    """Be the only writer in the folder of a recipe's run, together with the machines that share its training.

    With `operations.accelerate_config` each machine starts the same training on the same folder: the first one holds
    it for all.

    Raises:
        FolderInUseError: as `exclusive_folder`.
        FileError: as `exclusive_folder`.
    """
    if processes_of(recipe.operations).machine_rank > 0:
        yield
        return
    with exclusive_folder(folder):
        yield


def _acquired(folder: Path, place: Path) -> FileLock:
    lock = FileLock(place / _LOCK, timeout=0)
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise FolderInUseError(_in_use(folder, _read_owner(place))) from None
    except OSError as error:
        raise FileError(f"{folder} cannot be locked for this command: {os_reason(error)}") from error
    return lock


def _in_use(folder: Path, owner: _Owner | None) -> str:
    if owner is None:  # it has only just begun
        return (
            f"{folder} is in use: another command is at work there; wait until it has ended, or choose another folder"
        )
    return (
        f"{folder} is in use: process {owner['pid']} on {owner['host']} is at work there since {owner['since']} "
        f"({owner['command']}); wait until it has ended, or choose another folder"
    )


def _refuse_another_machine(folder: Path, place: Path) -> None:
    """Refuse a folder that a living process of another machine owns, whose lock the storage did not pass on."""
    owner = _read_owner(place)
    if owner is None or owner["host"] == platform.node() or (owner["boot"] and owner["boot"] == _boot()):
        return
    if _age(place / _OWNER) < _SILENCE:
        raise FolderInUseError(
            f"{_in_use(folder, owner)}. If {owner['host']} has stopped, this machine may take over once "
            f"{_SILENCE:.0f} seconds have passed without a sign of life from it"
        )


def _age(file: Path) -> float:
    """The seconds since a file was touched, by the clock of its storage."""
    with scratch_folder(file) as probe:
        return probe.stat().st_mtime - file.stat().st_mtime


def _introduce(place: Path) -> None:
    command = redact(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])) if sys.argv[0] else "python"
    owner: _Owner = {
        "pid": os.getpid(),
        "host": platform.node(),
        "boot": _boot(),
        "since": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        "command": command if len(command) <= _MAX_COMMAND else f"{command[:_MAX_COMMAND]}...",
    }
    write_text(place / _OWNER, json.dumps(owner, indent=2) + "\n")


def _read_owner(place: Path) -> _Owner | None:
    """Who holds the lock; None if nobody says so. The lock counts, so a damaged file tells nothing."""
    try:
        owner: _Owner = parse_json((place / _OWNER).read_bytes(), _Owner)
    except (OSError, ValueError):
        return None
    return owner


@contextmanager
def _signs_of_life(owner: Path) -> Iterator[None]:
    done = threading.Event()

    def touch() -> None:
        while not done.wait(_SIGN_OF_LIFE):
            try:
                os.utime(owner)
            except OSError as error:  # storage that hesitates must not end the work
                logger.debug(f"{owner} cannot be touched: {error}")

    thread = threading.Thread(target=touch, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _boot() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""
