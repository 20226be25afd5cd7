"""Images and videos on disk through a model: each edit of each once, and none of a person's own files in the way."""

import errno
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image

from inference.contact_sheet import ContactSheet, thumbnail
from inference.inputs import Input
from inference.media.medium import Edit, Medium, Progress, Still
from inference.media.opening import open_medium
from inference.results import Results, Wanted, file_digest, key_of, part_of_name
from inference.runtime import EditError, ImageError, Translator
from synth.errors import FileError, ImageInputError
from synth.images.reader import SourceImage

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of a disk: what fails for one result fails for all


@dataclass(frozen=True)
class Edits:
    """What is made of every image."""

    translator: Translator
    names: Sequence[str]
    strength: float = 1.0
    format: str | None = None
    """Of images: one of `writer.WRITTEN` (default: each image's own)."""
    all_frames: bool = False
    """Whether videos are edited, and animations whole; else the first frame of an animation is."""
    progress: Progress[SourceImage] = lambda frames, path, total: frames
    """Shows the frames of an animation or a video as they are made."""

    def wanted(self, medium: Medium, name: str) -> Wanted:
        """Return what one edit of a file is, for the list of results."""
        key = key_of(self._model, name, float(self.strength), *medium.key(self.format))
        return Wanted(medium.path, f"translate {name}", key)

    @cached_property
    def _model(self) -> list[str]:
        """Hashes of the model's files: the weights of a large one lie beside it."""
        file = self.translator.file
        assert file is not None, "it was loaded from a file"
        return [file_digest(path) for path in (file, file.with_name(f"{file.name}.data")) if path.is_file()]


@dataclass
class Outcome:
    """What came of a call."""

    files: list[Path] = field(default_factory=list)
    """All results, those of earlier calls too."""
    num_skipped: int = 0
    """How many of them an earlier call had made already."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was left out of images, such as the other frames of an animation."""


def translate_all(
    edits: Edits, inputs: Sequence[Input], results: Results, sheet: ContactSheet, outcome: Outcome
) -> Iterator[dict[str, Path]]:
    """Make all edits of all images, but for those that an earlier call made already, and the contact sheet.

    A bad image costs a line in `outcome.problems`; a full disk ends the work with one.

    Yields:
        For each image its results by edit; none for a bad image.
    """
    for number, image in enumerate(inputs):
        try:
            yield _translate(edits, image, results, sheet, outcome)
            continue
        except (ImageError, ImageInputError, EditError) as error:
            outcome.problems.append(str(error))
        except MemoryError:
            outcome.problems.append(f"{image.path} needs more memory than there is: scale it down first")
        except FileError as error:
            outcome.problems.append(str(error))
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
                outcome.problems.append(f"stopped before {len(inputs) - number - 1} more images: repeat the command")
                break
        yield {}
    try:
        outcome.files += sheet.write(results)
    except FileError as error:
        outcome.problems.append(str(error))


def _translate(
    edits: Edits, image: Input, results: Results, sheet: ContactSheet, outcome: Outcome
) -> dict[str, Path]:
    """Make the edits of one image that are not there yet, each whole or not at all, with what the image brought.

    Raises:
        ImageError, ImageInputError: if the image or video cannot be read, or the format cannot hold it.
        EditError: if the network's numbers overflow.
        FileError: if a result cannot be written.
    """
    medium = open_medium(image.path, edits.format) if edits.all_frames else Still(image.path)
    wanted = {name: edits.wanted(medium, name) for name in edits.names}
    paths = {name: path for name, each in wanted.items() if (path := results.find(each)) is not None}
    outcome.num_skipped += len(paths)
    row: dict[str, Image.Image] = {}
    is_read = len(paths) < len(wanted) or sheet.has_room
    if is_read:
        outcome.notes += [f"{image.path}: {note}" for note in medium.notes]
    for name in edits.names:
        if name in paths:
            if sheet.has_room:
                row[name] = thumbnail(open_medium(paths[name]).first)
            continue
        paths[name], edited = _make(edits, image, medium, wanted[name], name, results)
        if sheet.has_room:
            row[name] = thumbnail(edited)
    if not is_read or not sheet.has_room:
        sheet.count_out()
    else:
        sheet.add(image.path, [thumbnail(medium.first), *(row[name] for name in edits.names)])
    paths = {name: paths[name] for name in edits.names}
    outcome.files += paths.values()
    return paths


def _make(
    edits: Edits, image: Input, medium: Medium, wanted: Wanted, name: str, results: Results
) -> tuple[Path, SourceImage]:
    """Make and write one edit; at strength 0 the file itself is copied, unless another format is asked for."""
    edit = Edit(edits.translator, name, edits.strength)
    is_copy = edits.strength == 0 and medium.takes(edits.format)
    suffix = medium.own_suffix if is_copy else medium.suffix(edits.format)
    own = (f"-{image.path.suffix[1:].lower()}",) if image.path.suffix else ()
    target = results.choose(wanted, image.name, f"_{part_of_name(name)}", suffix, own)
    with results.put(wanted, target) as part:
        if is_copy:
            edited = medium.first
            shutil.copyfile(image.path, part)
        else:
            edited = medium.write(edit, part, edits.format, edits.progress)
    return target, edited
