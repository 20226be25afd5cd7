"""Photographs that are the files of a folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from synth.dataset.sources.metadata import FolderCaptions, printable_name
from synth.dataset.sources.photo import MAX_BYTES, Part, Photo, problem
from synth.errors import os_reason
from synth.images.listing import walk


def list_tree(root: Path, skip: Path | None) -> tuple[list[str], dict[str, str]]:
    """List the files of a folder and of all folders below, without what systems and programs leave behind.

    Args:
        root: the folder.
        skip: a resolved folder below it that does not belong to it.

    Returns:
        The files' names, relative to the folder, with forward slashes, sorted; and what cannot be reached -> why.
    """
    names: list[str] = []
    problems: dict[str, str] = {}
    inside = root.resolve()
    skipped = skip.relative_to(inside).parts if skip is not None and skip.is_relative_to(inside) else None
    for found in walk(root):
        place = found.path.relative_to(root)
        if skipped is not None and place.parts[: len(skipped)] == skipped:
            continue
        if found.problem:
            # Without its path: a row of the rejects has a name, and must not tell folders of this machine.
            problems[printable_name(place.as_posix())] = found.problem.removeprefix(f"{found.path} ")
        else:
            names.append(place.as_posix())
    return sorted(names, key=lambda name: name.split("/")), problems


def open_files(root: Path, names: Sequence[str], captions: FolderCaptions, problems: dict[str, str]) -> Part:
    """Open image files.

    Args:
        root: the folder.
        names: of the files, relative to it.
        captions: of the folder.
        problems: what cannot be reached -> why.
    """

    def read() -> Iterator[Photo]:
        for name in names:
            yield _read(root / name, printable_name(name), captions.of(name))
        for place, reason in {**problems, **captions.problems}.items():
            yield problem(place, reason)

    return Part(len(names) + len(problems), read, captions.notes)


def _read(path: Path, name: str, caption: str) -> Photo:
    try:
        if path.stat().st_size > MAX_BYTES:
            return problem(name, "larger than 1 GiB")
        return Photo(name, path.read_bytes(), caption)
    except OSError as error:
        return problem(name, f"cannot be read: {os_reason(error)}")
