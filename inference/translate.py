"""Images on disk through a model: which files are meant, where each result goes, and a sheet to look at."""

import glob
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from inference.runtime import ImageError, Translator, TranslatorError
from synth.errors import FileError
from synth.files import whole_file, write_bytes
from synth.images import reader
from synth.images.encoding import png_bytes
from synth.images.reader import FORMATS, SourceImage
from synth.images.writer import suffix_for, write_image, written_format

SHEET = "contact_sheet.png"
CELL = 192  # side of an image on the sheet, in pixels
MARGIN = 8
LINE = 20  # height of a line of text
MAX_ROWS = 50  # of the sheet: it is there to be looked at


class OutputError(TranslatorError):
    """The results cannot be written where they are wanted."""


@dataclass(frozen=True)
class Job:
    """One image, and where each of its edits goes."""

    source: Path
    targets: dict[str, Path]


def list_jobs(
    inputs: Sequence[str], edits: Sequence[str], out: Path, format: str | None = None
) -> tuple[list[Job], list[str]]:
    """List what there is to do.

    Args:
        inputs: files, folders (all images in and below them; subfolders are kept under `out`), and globs such as
            "photos/**/*.jpg". What a folder or a glob finds in `out` is left out.
        edits: names of the edits.
        out: folder for the results.
        format: of the results, one of `writer.WRITTEN` (default: each image's own).

    Returns:
        A job an image, and a line for each input that leads nowhere.

    Raises:
        OutputError: if two results would be one file.
    """
    sources: dict[Path, Path] = {}  # the image -> its name under `out`, without ending
    problems = []
    for given in inputs:
        found = _find(given, out)
        if not found:
            problems.append(f"no image at {given}: check the path")
        for source, name in found.items():
            sources.setdefault(source, name.with_suffix(""))
    jobs: list[Job] = []
    owners: dict[Path, Path] = {out / SHEET: Path("the contact sheet")}
    for source, name in sources.items():
        suffix = suffix_for(source, format)
        targets = {edit: out / name.parent / f"{name.name}_{_file_name(edit)}{suffix}" for edit in edits}
        for target in targets.values():
            if target in owners:
                raise OutputError(f"{source} and {owners[target]} would both become {target}: use two --out")
            owners[target] = source
        jobs.append(Job(source, targets))
    return jobs, problems


def _find(given: str, out: Path) -> dict[Path, Path]:
    """The images that one input means, sorted, each with its name under `out`."""
    path = Path(given)
    if path.is_dir():
        paths = [file for file in sorted(path.rglob("*")) if _is_image(file.relative_to(path)) and file.is_file()]
        return {file: file.relative_to(path) for file in paths if not _is_below(file, out)}
    if path.exists() or not glob.has_magic(given):
        return {path: Path(path.name)} if path.exists() else {}
    paths = [Path(match) for match in sorted(glob.glob(given, recursive=True))]
    return {file: Path(file.name) for file in paths if file.is_file() and not _is_below(file, out)}


def _is_image(path: Path) -> bool:
    """Whether a name is an image's; hidden files and what lies in hidden folders are left out."""
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and Image.registered_extensions().get(path.suffix.lower()) in FORMATS


def _is_below(file: Path, folder: Path) -> bool:
    return folder.resolve() in file.resolve().parents


def _file_name(edit: str) -> str:
    """An edit's name, which comes out of the model file, as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", edit)


def translate_image(
    translator: Translator, job: Job, strength: float, format: str | None = None
) -> tuple[list[Image.Image], tuple[str, ...]]:
    """Make all edits of a job and write each, whole or not at all, with what the image brought.

    At strength 0 the file itself is copied, unless `format` asks for another format than its own.

    Returns:
        The contact sheet's row, the input and then each edit; and what of the image was left out.

    Raises:
        ImageError: if the image cannot be read, or the format cannot hold it.
        OutputError: if a result cannot be written.
    """
    try:
        photo = reader.read_image(job.source)
    except reader.ImageError as error:
        raise ImageError(str(error)) from error
    row = [_thumbnail(photo)]
    is_copied = strength == 0 and format in (None, photo.format)
    for edit, target in job.targets.items():
        edited = translator(photo, edit, strength)
        row.append(_thumbnail(edited))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as temporary:
                if is_copied:
                    shutil.copyfile(job.source, temporary)
                else:
                    write_image(edited, temporary, format or written_format(photo.format))
        except reader.ImageError as error:
            raise ImageError(f"{job.source}: {error}") from error
        except (OSError, FileError) as error:
            raise OutputError(f"cannot write {target}: {error}") from error
    return row, photo.notes


def _thumbnail(image: SourceImage) -> Image.Image:
    """At most CELL x CELL, in sRGB, on white where it is transparent."""
    return ImageOps.contain(Image.fromarray(image.on_ground()), (CELL, CELL))


class ContactSheet:
    """Input and edits side by side, one row an image, each under its name; further rows are left out."""

    def __init__(self, edits: Sequence[str]):
        self._edits = edits
        self._rows: list[tuple[str, list[Image.Image]]] = []
        self._num_left_out = 0

    def add(self, name: str, images: list[Image.Image]) -> None:
        """Add a row, as `translate_image` returns it."""
        if len(self._rows) < MAX_ROWS:
            self._rows.append((name, images))
        else:
            self._num_left_out += 1

    def write(self, out: Path) -> list[Path]:
        """Write it into the folder `out`, if it has rows; returns its path, or nothing."""
        if not self._rows:
            return []
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_bytes(out / SHEET, png_bytes(self._draw()))
        except (OSError, FileError) as error:
            raise OutputError(f"cannot write {out / SHEET}: {error}") from error
        return [out / SHEET]

    def _draw(self) -> Image.Image:
        step, row_height = CELL + MARGIN, LINE + CELL + MARGIN
        width = MARGIN + step * (1 + len(self._edits))
        height = LINE + MARGIN + row_height * len(self._rows) + (LINE if self._num_left_out else 0)
        sheet = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(sheet)
        font = ImageFont.load_default(size=14)

        def write(x: int, y: int, text: str, room: int) -> None:
            while text and draw.textlength(text, font) > room:
                text = text[:-2] + "…" if len(text) > 1 else ""
            draw.text((x, y), text, "black", font)

        for column, label in enumerate(["input", *self._edits]):
            write(MARGIN + column * step, MARGIN // 2, label, CELL)
        for number, (name, images) in enumerate(self._rows):
            top = LINE + MARGIN + number * row_height
            write(MARGIN, top, name, width - 2 * MARGIN)
            for column, image in enumerate(images):
                sheet.paste(image, (MARGIN + column * step, top + LINE))
        if self._num_left_out:
            write(MARGIN, height - LINE, f"and {self._num_left_out} more", width - 2 * MARGIN)
        return sheet


def translate_all(
    translator: Translator,
    jobs: Sequence[Job],
    strength: float,
    sheet: ContactSheet,
    problems: list[str],
    notes: list[str],
    format: str | None = None,
) -> Iterator[list[Path]]:
    """The files that each job wrote; a bad image writes none and adds a line to `problems`.

    What was left out of an image, such as the other frames of an animation, adds a line to `notes`.
    """
    for job in jobs:
        try:
            row, left_out = translate_image(translator, job, strength, format)
        except ImageError as error:
            problems.append(str(error))
            yield []
        else:
            sheet.add(str(job.source), row)
            notes += [f"{job.source}: {note}" for note in left_out]
            yield list(job.targets.values())
