"""Which images a command is given: by files, folders and globs, without junk and without results of earlier calls."""

import glob
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inference.results import LIST, Record, Results, one_spelling
from synth.errors import os_reason
from synth.images.listing import is_image_name, is_junk, is_video_name, list_images

_Place = tuple[str, str]


@dataclass(frozen=True)
class Input:
    """An image to work on."""

    path: Path
    name: Path
    """What its results are called, without suffix: relative to their folder, with the subfolders that tell it from
    others."""


@dataclass(frozen=True)
class Inputs:
    """What there is to do."""

    images: list[Input] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """A line for each thing that was asked for and is not there or cannot be read."""
    notes: list[str] = field(default_factory=list)
    """A line for each kind of file that was passed over and that a person may miss."""


@dataclass(frozen=True)
class _Candidate:
    path: Path
    depth: int
    """How many parts of the path, from its end, name it."""
    is_named: bool
    """Whether it was named itself, not found in a folder or by a glob."""

    @property
    def place(self) -> _Place:
        """The same for one file in two spellings; a link is another file than its target."""
        return _place(self.path)


def list_inputs(given: Sequence[str | Path], out: Path | None = None, with_videos: bool = False) -> Inputs:
    """List the images that are meant.

    A result of an earlier call is left out where the image that it was made from is given, too, and where a folder or
    a glob finds it among the results in `out`. So results may lie beside the originals, and one edit may follow
    another.

    Args:
        given: files, folders (all images in and below them), and globs such as "photos/**/*.jpg".
        out: where the results go.
        with_videos: whether folders and globs mean the videos, too.

    Raises:
        FileError: if a folder's list of results cannot be read.
    """
    inputs = Inputs()
    found: dict[_Place, _Candidate] = {}
    for item in given:
        for candidate in _find(str(item), inputs, with_videos):
            found.setdefault(candidate.place, candidate)
    results = _results_among(found, out)
    kept = [candidate for place, candidate in found.items() if place not in results]
    if results:
        first = min(found[place].path for place in results)
        inputs.notes.append(f"left out, as made by an earlier call: {len(results)}, such as {first}")
    if results and not kept:
        inputs.problems.append("all images are results of earlier calls: copy them elsewhere to edit them again")
    inputs.images.extend(Input(path, name) for path, name in _names(kept).items())
    return inputs


def _find(given: str, inputs: Inputs, with_videos: bool) -> list[_Candidate]:
    """Find what one item means; what is wrong with it goes to `inputs`."""
    path = Path(given)
    try:
        if path.is_dir():
            return [] if _is_left_out(path, inputs) else _in_folder(path, inputs, with_videos)
        is_there = os.path.lexists(path)
        if not is_there and os.path.basename(given):
            path.lstat()  # says why, where it is not just missing
    except FileNotFoundError:
        is_there = False
    except OSError as error:
        inputs.problems.append(f"no image at {given}: {os_reason(error)}")
        return []
    if is_there:
        return [] if _is_left_out(path, inputs) else [_Candidate(path, 1, is_named=True)]
    try:
        matches = _matches(given, with_videos) if glob.has_magic(given) else []
    except (ValueError, NotImplementedError) as error:  # before Python 3.13, "**" has to stand between slashes
        inputs.problems.append(f"no image at {given}: {error}")
        return []
    if not matches:
        inputs.problems.append(f"no image at {given}: check the path")
    return matches


def _is_left_out(path: Path, inputs: Inputs) -> bool:
    """Whether a shell's glob found what nobody means. What is hidden was typed."""
    if not is_junk(path.name) or path.name.startswith("."):
        return False
    inputs.notes.append(f"left out, as a program's own: {path}")
    return True


def _in_folder(folder: Path, inputs: Inputs, with_videos: bool) -> list[_Candidate]:
    listing = list_images(folder, with_videos)
    inputs.problems.extend(listing.problems)
    inputs.notes.extend(f"left out, {line}" for line in listing.left_out)
    if not listing.images and not listing.problems:
        inputs.problems.append(f"no image at {folder}: it has no files that are named like images")
    return [_Candidate(path, len(path.relative_to(folder).parts), is_named=False) for path in listing.images]


def _matches(pattern: str, with_videos: bool) -> list[_Candidate]:
    """Match a glob. `**` follows no links, for they may lead in circles."""
    parts = Path(pattern).parts
    num_fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:num_fixed])
    found = sorted(base.glob(str(Path(*parts[num_fixed:]))))
    below = [(path, path.relative_to(base).parts) for path in found]
    return [
        _Candidate(path, 1, is_named=False)
        for path, names in below
        if (is_image_name(path.name) or (with_videos and is_video_name(path.name)))
        and not any(map(is_junk, names))
        and path.is_file()
    ]


def _results_among(found: dict[_Place, _Candidate], out: Path | None) -> set[_Place]:
    """Find the candidates that are results of earlier calls and not meant."""
    lists: dict[str, Results | None] = {}
    found_results = set()
    for place, candidate in found.items():
        for results, record in _records_of(candidate.path, lists):
            source = results.source_of(record)
            is_given = source is None or (_place(source) in found and _place(source) != place)
            is_in_out = not candidate.is_named and out is not None and _is_same_folder(results.folder, out)
            if is_given or is_in_out:
                found_results.add(place)
    return found_results


def _records_of(path: Path, lists: dict[str, Results | None]) -> list[tuple[Results, Record]]:
    """What the lists in a file's folder and in those above it know of the file."""
    found = []
    real = Path(*_place(path))
    for folder in real.parents:
        key = str(folder)
        if key not in lists:
            lists[key] = Results(folder) if (folder / LIST).is_file() else None
        results = lists[key]
        record = results.record_of(real) if results is not None else None
        if results is not None and record is not None:
            found.append((results, record))
    return found


def _is_same_folder(folder: Path, other: Path) -> bool:
    return os.path.realpath(folder) == os.path.realpath(other)


def _place(path: Path) -> _Place:
    return os.path.realpath(path.parent), path.name


def _names(candidates: Sequence[_Candidate]) -> dict[Path, Path]:
    """Name each image by the end of its path, by as many parts as tell it from images in other folders."""
    parts = {candidate.path: Path(os.path.abspath(candidate.path)).parts[1:] for candidate in candidates}
    depths = {candidate.path: candidate.depth for candidate in candidates}
    while True:
        groups: dict[str, list[Path]] = defaultdict(list)
        names = {path: Path(*parts[path][-depth:]).with_suffix("") for path, depth in depths.items()}
        for path, name in names.items():
            groups[one_spelling(str(name))].append(path)
        alike = [group for group in groups.values() if len({_place(path)[0] for path in group}) > 1]
        longer = [path for group in alike for path in group if depths[path] < len(parts[path])]
        if not longer:
            return names
        for path in longer:
            depths[path] += 1
