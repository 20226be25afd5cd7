"""Which dataset outside its folder a run uses: `dataset.url`, one line with a URL, or two lines with a local folder.

    ../../sets/sofas            from the run folder: run and dataset were moved together
    /home/me/sets/sofas         from the root: the run folder alone was moved

The first of the two that exists counts. Neither depends on the directory in which a command starts.
"""

import os
from pathlib import Path

from synth.errors import RunError
from synth.files import write_text
from synth.state import reading
from synth.urls import credentials_refused, has_credentials, is_url

NAME = "dataset.url"
_MAX_URL = 4096  # characters


def read_link(folder: Path) -> str | None:
    """Return the dataset that `dataset.url` in a run folder names; None if there is no such file.

    Raises:
        RunError: if it holds anything but printable lines with a folder or URL.
    """
    file = folder / NAME
    if not file.exists():
        return None
    with reading(file, RunError, "delete it, and name the dataset with --data"):
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        if not all(_is_address(line) for line in lines):
            raise ValueError("it is not one line with a folder or URL")
        if is_url(lines[0]) and len(lines) == 1:
            return lines[0]
        if len(lines) > 2 or is_url(lines[0]) or (len(lines) == 2 and not Path(lines[1]).is_absolute()):
            raise ValueError("it is not one URL, or a folder's path from here and from the root")
    moved_along = folder / lines[0]
    return os.path.normpath(moved_along) if moved_along.exists() else lines[-1]


def write_link(folder: Path, url: str) -> None:
    """Let a run folder name a dataset outside it.

    Args:
        folder: the run folder.
        url: the dataset's folder, as typed in the present working directory, or its URL.

    Raises:
        RunError: if the URL has credentials in it, or is not one printable line.
        DatasetError: if no storage is known for the URL.
    """
    from synth.dataset.store import Store

    if has_credentials(url):
        raise RunError(credentials_refused(url))
    if not _is_address(url):
        raise RunError(f"the dataset's name {url[:80]!r} is not one line of printable characters: rename the folder")
    path = Store(url).path
    content = f"{url}\n"
    if path is not None:
        # Resolved, since `..` from behind a symlink leads elsewhere than its name says.
        content = f"{os.path.relpath(path.resolve(), folder.resolve())}\n{os.path.normpath(path)}\n"
    if not (folder / NAME).exists() or (folder / NAME).read_bytes() != content.encode():
        write_text(folder / NAME, content)


def same_dataset(one: str, other: str) -> bool:
    """Return whether two names, as typed in the present working directory, mean the same folder or URL."""
    from synth.dataset.store import Store

    if one == other:
        return True
    paths = [Store(name).path for name in (one, other)]
    return None not in paths and len({path.resolve() for path in paths if path is not None}) == 1


def _is_address(line: str) -> bool:
    return bool(line) and line.isprintable() and len(line) <= _MAX_URL
