"""Photographs that are the files of a folder."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from synth.dataset.sources.metadata import FolderCaptions, printable_name
from synth.dataset.sources.photo import MAX_BYTES, Part, Photo, problem
from synth.errors import os_reason
from synth.files import is_partial

_JUNK = frozenset(("thumbs.db", "desktop.ini", "@eadir", "lost+found", "__macosx"))
_UNFINISHED = (".part", ".crdownload", ".tmp")


def list_tree(root: Path, skip: Path | None) -> tuple[list[str], dict[str, str]]:
    """List the files of a folder and of all folders below, through links too, without what systems leave behind.

    Args:
        root: the folder.
        skip: a folder below it that does not belong to it.

    Returns:
        The files' names, relative to the folder, with forward slashes, sorted; and what cannot be listed -> why.
    """
    found: list[str] = []
    problems: dict[str, str] = {}
    seen: set[Path] = set()

    def failed(error: OSError) -> None:
        folder = Path(error.filename).relative_to(root).as_posix()
        problems[printable_name(folder)] = f"cannot be listed: {os_reason(error)}"

    for here, folders, files in os.walk(root, onerror=failed, followlinks=True):
        place = Path(here).resolve()
        if place in seen or place == skip:  # a link that leads back, or the set itself
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if not is_junk(name)]
        inside = Path(here).relative_to(root)
        found += [(inside / name).as_posix() for name in files if not is_junk(name)]
    return sorted(found, key=lambda name: name.split("/")), problems


def is_junk(name: str) -> bool:
    """Return whether a system, a browser or this project leaves files or folders of such a name behind."""
    folded = name.casefold()
    return folded.startswith(".") or folded in _JUNK or folded.endswith(_UNFINISHED) or is_partial(name)


def open_files(root: Path, names: Sequence[str], captions: FolderCaptions, problems: dict[str, str]) -> Part:
    """Open image files.

    Args:
        root: the folder.
        names: of the files, relative to it.
        captions: of the folder.
        problems: what cannot be listed -> why.
    """

    def read() -> Iterator[Photo]:
        for name in names:
            yield _read(root / name, printable_name(name), captions.of(name))
        for place, reason in {**problems, **captions.problems}.items():
            yield problem(place, reason)

    return Part(len(names) + len(problems), read, captions.notes)


def _read(path: Path, name: str, caption: str) -> Photo:
    try:
        if not path.is_file() and not path.is_symlink():
            return problem(name, "not a file")  # a pipe or a device would block
        if path.stat().st_size > MAX_BYTES:
            return problem(name, "larger than 1 GiB")
        return Photo(name, path.read_bytes(), caption)
    except OSError as error:
        return problem(name, f"cannot be read: {os_reason(error)}")
