"""Photographs in tar archives, as webdataset and img2dataset write them: 0001.jpg, 0001.txt, 0001.json side by side.

Members are read from the archive and never written to disk, so their names lead nowhere.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from synth.dataset.sources.captions import caption_in, decoded, first_line_of
from synth.dataset.sources.metadata import FolderCaptions, name_key, printable_name
from synth.dataset.sources.photo import MAX_BYTES, Part, Photo, problem
from synth.errors import first_line

SUFFIXES = (".tar", ".tar.gz", ".tgz")
_CAPTIONS = ("txt", "caption", "json")
_OTHERS = frozenset(("cls", "__key__", "__url__", "index", "id", "npy", "pth", "pyd"))
"""Endings of a sample's members that are neither image nor caption."""


def open_archive(path: Path, name: str, captions: FolderCaptions | None, wanted: str | None) -> Part:
    """Open the images in an archive.

    Args:
        path: the archive.
        name: what its photographs' names begin with.
        captions: of the folder that the archive is in, for samples without a text of their own.
        wanted: the field of captions in JSON (default: the usual names).
    """
    try:
        with tarfile.open(path) as archive:
            count = sum(member.isfile() for member in archive)
    except (OSError, tarfile.TarError, EOFError, ValueError) as error:
        reason = f"an archive that cannot be read: {first_line(error)}"
        return Part(1, lambda: iter([problem(name, reason)]))

    def read() -> Iterator[Photo]:
        done = 0
        try:
            with tarfile.open(path) as archive:
                samples: dict[str, list[tarfile.TarInfo]] = {}
                for member in archive:
                    if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
                        samples.setdefault(_key(member.name)[0], []).append(member)
                for key, members in samples.items():
                    beside = captions.of(f"{name.rpartition('.tar')[0]}/{key}") if captions else ""
                    for photo in _photos(archive, name, members, wanted, beside):
                        done += 1
                        yield photo
        except (OSError, tarfile.TarError, EOFError, ValueError) as error:
            yield problem(name, f"an archive that cannot be read after {done} images: {first_line(error)}")

    return Part(count, read)


def _photos(
    archive: tarfile.TarFile, name: str, members: Sequence[tarfile.TarInfo], wanted: str | None, beside: str
) -> Iterator[Photo]:
    """Yield the images of one sample, with its caption."""
    # In the order of the archive: a compressed one cannot go back without starting again.
    contents = {
        member.name: b"" if member.size > MAX_BYTES else _content(archive, member)
        for member in sorted(members, key=lambda member: member.offset)
        if _ending(member) not in _OTHERS
    }
    texts = {_ending(member): member for member in members if _ending(member) in _CAPTIONS}
    images = [member for member in members if member.name in contents and _ending(member) not in _CAPTIONS]
    found = (_caption(contents[texts[ending].name], ending, wanted) for ending in _CAPTIONS if ending in texts)
    caption = next((caption for caption in found if caption), beside)
    for member in images or texts.values():
        place = f"{name}/{printable_name(member.name)}"
        if member.size > MAX_BYTES:
            yield problem(place, "larger than 1 GiB")
        else:
            yield Photo(place, contents[member.name], caption)


def _caption(content: bytes, ending: str, wanted: str | None) -> str:
    text, _ = decoded(content)
    if ending != "json":
        return first_line_of(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return caption_in(value, wanted) if isinstance(value, dict) else ""


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _ending(member: tarfile.TarInfo) -> str:
    return _key(member.name)[1]


def _key(name: str) -> tuple[str, str]:
    """Split a member's name as webdataset does, at the first dot of its last part: key, and ending in lower case."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return name_key(f"{folder}{slash}{stem}"), ending.lower()
