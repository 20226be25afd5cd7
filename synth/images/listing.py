"""Which files in a folder are images that a person put there: the one definition, for every verb.

Folders hold more than people see: thumbnails of file servers, what a Mac writes beside each file, downloads that were
cut off. All of that is junk and is passed over. What a person may miss, such as a video, is named.
"""

import importlib.util
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from synth.errors import os_reason
from synth.images.reader import FORMATS, SUFFIXES

_JUNK = {
    # folders: Synology, QNAP and other file servers, Linux, Macs, Windows, FrontPage
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "lost+found", "__macosx"),
    *("$recycle.bin", "system volume information", "recycler", "_vti_cnf"),
    # files
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "zbthumbnail.info", "icon\r"),
}
_UNFINISHED = (
    *(".part", ".partial", ".crdownload", ".download", ".opdownload", ".aria2", ".tmp", ".temp", ".!ut"),
    *(".!qb", ".bc!", ".filepart", ".icloud"),
)
_IMAGES = {suffix: name for name, suffixes in SUFFIXES.items() for suffix in suffixes}
_VIDEOS = "videos"
_NAMED = {
    _VIDEOS: ".mp4 .m4v .mov .qt .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .3g2 .mts .m2ts .vob .ogv .insv",
    "raw photographs": ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .pef .srw .x3f .3fr .iiq",
    "images in formats that are not read": (
        ".psd .psb .xcf .kra .svg .svgz .pdf .eps .ai .jxl .jp2 .j2k .jxr .exr .hdr .tga .ico .icns .ppm .pgm .pbm"
    ),
}
_KINDS = {suffix: kind for kind, suffixes in _NAMED.items() for suffix in suffixes.split()}

VIDEO_PACKAGE = 'one more package: pip install "dds-distillery[video]"'


@dataclass(frozen=True)
class Listing:
    """What is in a folder and below it."""

    images: list[Path]
    """Sorted, each starting with the folder as given."""
    problems: list[str]
    """A line for each thing that should have been an image or a folder of them, and cannot be read."""
    left_out: list[str]
    """A line for each kind of file that a person may miss among the images."""


def list_images(folder: Path, with_videos: bool = False) -> Listing:
    """List the images in a folder and below it, by their names; the reader tells what is inside.

    Links to files and folders are followed, and no folder is entered twice. Videos count as images if asked for and
    where their package is.
    """
    images, problems = [], []
    takes_videos = with_videos and has_video_package()
    named: dict[str, list[Path]] = defaultdict(list)
    needed: dict[str, list[Path]] = defaultdict(list)
    for path, problem, is_folder in walk(folder):
        suffix = path.suffix.lower()
        if problem:
            problems += [problem] if is_folder or suffix in _IMAGES else []
        elif suffix not in _IMAGES and not (takes_videos and is_video_name(path.name)):
            if suffix in _KINDS:
                named[_KINDS[suffix]].append(path)
        elif path.stat().st_size == 0:
            named["empty files"].append(path)
        elif suffix not in _IMAGES:
            images.append(path)
        elif _IMAGES[suffix] not in FORMATS:
            needed[_IMAGES[suffix]].append(path)
        else:
            images.append(path)
    problems += [_needs_package(format, paths) for format, paths in needed.items()]
    hints = {_VIDEOS: f"; they need {VIDEO_PACKAGE}"} if with_videos else {}
    left_out = [f"{kind}: {_number(paths)}{hints.get(kind, '')}" for kind, paths in sorted(named.items())]
    return Listing(sorted(images), problems, left_out)


class Found(NamedTuple):
    """A file that `walk` found, or a folder that it could not look into."""

    path: Path
    problem: str = ""
    """Why it cannot be reached, with its path; empty where it can."""
    is_folder: bool = False


def walk(folder: Path) -> Iterator[Found]:
    """Yield each file in a folder and below it that is not junk, with a problem where it cannot be reached."""
    waiting = [folder]
    entered: set[tuple[int, int]] = set()
    while waiting:
        place = waiting.pop()
        try:
            status = place.stat()
            # A link may lead to a folder above it.
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            yield Found(place, f"{place} cannot be read: {os_reason(error)}", is_folder=True)
            continue
        names = {entry.name.lower() for entry in entries}
        below = []
        for entry in entries:
            path = place / entry.name
            if is_junk(entry.name) or any(f"{entry.name.lower()}{suffix}" in names for suffix in _UNFINISHED):
                continue
            try:
                if entry.is_dir():
                    below.append(path)
                elif entry.is_file():
                    yield Found(path)
                elif entry.is_symlink():
                    yield Found(path, f"{path} is a link to nothing that can be read")
            except OSError as error:  # a link to itself
                yield Found(path, f"{path} cannot be read: {os_reason(error)}")
        waiting += reversed(below)


def is_junk(name: str) -> bool:
    """Return whether a file or folder of this name is nobody's image, whatever its ending: hidden, or a program's."""
    lower = name.lower()
    return lower.startswith((".", "~$")) or lower in _JUNK or lower.endswith(_UNFINISHED)


def is_image_name(name: str) -> bool:
    """Return whether a name ends as an image's does, HEIC among them, and is not junk."""
    return os.path.splitext(name)[1].lower() in _IMAGES and not is_junk(name)


def has_video_package() -> bool:
    """Return whether PyAV is here, without which videos are not read."""
    return importlib.util.find_spec("av") is not None


def is_video_name(name: str) -> bool:
    """Return whether a name ends as a video's does, and is not junk."""
    return _KINDS.get(os.path.splitext(name)[1].lower()) == _VIDEOS and not is_junk(name)


def _needs_package(format: str, paths: list[Path]) -> str:
    package = {"HEIF": "pillow-heif"}.get(format, "a Pillow that reads it")
    return f"{SUFFIXES[format][0]} images need one more package, {package}: {_number(paths)}"


def _number(paths: list[Path]) -> str:
    return f"{min(paths)}" if len(paths) == 1 else f"{len(paths)}, such as {min(paths)}"
