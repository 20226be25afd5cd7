"""Captions beside the images of a folder: metadata files in any folder of the tree, and a text file per image.

    metadata.jsonl, .csv, .parquet    rows of a file_name, relative to their folder, and a caption; the nearest to an
                                      image wins, as in the image folders of `datasets`
    0.txt, 0.caption, 0.json          beside 0.png; also 0.png.txt
    00000.parquet                     beside the folder 00000, as img2dataset writes it: rows of a key and a caption

They only name images that were found in the folder: no file is opened because a row names it.
"""

import csv
import io
import json
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synth.dataset.sources.captions import caption_in, decoded, first_line_of, require_column
from synth.errors import DatasetError, first_line, os_reason

METADATA = ("metadata.parquet", "metadata.csv", "metadata.jsonl")
"""By rising precedence, where one folder has several."""
_BESIDE = (".txt", ".caption", ".json")
"""The endings of a text file beside an image, by falling precedence."""
_FILE_NAMES = ("file_name", "filename", "image_file_name", "file", "image", "path")
_BOOKKEEPING = re.compile(r"[0-9]+_stats\.json")
_MAX_BESIDE = 2**20  # bytes of a text file beside an image
_MAX_CELL = 2**27  # characters; the csv module's own limit is 131072
_NAMED = 3  # rows that a message names

Row = Mapping[str, Any]


def name_key(name: str) -> str:
    """Return what two spellings of a file's name share: Unicode's form NFC, and UTF-8 or else Latin-1."""
    raw = _raw(name)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return unicodedata.normalize("NFC", text)


def printable_name(name: str) -> str:
    """Return a file's name as UTF-8: bytes that are not are escaped."""
    return _raw(name).decode("utf-8", "backslashreplace")


def _raw(name: str) -> bytes:
    """Return the bytes of a file's name; a name in metadata may hold what no file system can."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace")


class FolderCaptions:
    """The captions of a folder's images.

    Attributes:
        used: the files that hold captions, which are no images themselves.
        problems: what is wrong: the name of a row's file, or of the metadata -> the reason. Reading adds to it.

    Args:
        root: the folder.
        names: its files, relative to it, with forward slashes.
        wanted: the column of captions (default: the usual names).

    Raises:
        DatasetError: for metadata that cannot be read at all, or a wanted column that no file has.
    """

    def __init__(self, root: Path, names: Sequence[str], wanted: str | None) -> None:
        self._root, self._wanted = root, wanted
        self.problems: dict[str, str] = {}
        self._uncertain: dict[str, None] = {}  # files that are neither UTF-8 nor marked
        self._several: dict[str, None] = {}  # images with several captions
        self._captions: dict[str, str] = {}  # of a file, by its name
        self._by_stem: dict[str, str] = {}  # of a file, by the key of its name without the ending
        # Reversed, so that the first of two files that are spelt alike counts.
        self._by_key = {name_key(name): name for name in reversed(names)}
        self._folded = {key.casefold(): name for key, name in self._by_key.items()}
        self._columns: list[str] = []

        tables = [name for name in names if posixpath.basename(name) in METADATA]
        for name in sorted(tables, key=lambda name: (name.count("/"), METADATA.index(posixpath.basename(name)))):
            self._read(name)
        if tables:
            require_column(root, self._columns, wanted)
        keyed = [name for name in names if name.endswith(".parquet") and name not in tables and self._read_keys(name)]
        self._beside = _texts_beside(names)
        bookkeeping = (name for name in names if _BOOKKEEPING.fullmatch(posixpath.basename(name)))
        self.used = {*tables, *keyed, *self._beside.values(), *bookkeeping}

    def of(self, name: str) -> str:
        """Return the caption of an image, or ""."""
        if caption := self._captions.get(name):
            return caption
        stem = posixpath.splitext(name)[0]
        for ending in _BESIDE:
            for owner in (stem, name):
                text = self._beside.get((name_key(owner), ending))
                if text is not None and (caption := self._read_beside(text)):
                    return caption
        return self._by_stem.get(name_key(stem), "")

    def notes(self) -> list[str]:
        """Return what the user should know, a line each."""
        lines = []
        if self._several:
            first = next(iter(self._several))
            lines.append(f"{len(self._several)} images have several captions, such as {first}: the first is taken")
        if self._uncertain:
            first = next(iter(self._uncertain))
            lines.append(
                f"{len(self._uncertain)} files of captions are not UTF-8, such as {first}: they were read as "
                "Windows-1252; look at what they say"
            )
        return lines

    def _read(self, name: str) -> None:
        """Take in the rows of a metadata file."""
        folder = posixpath.dirname(name)
        captions: dict[str, str] = {}
        bad: list[str] = []
        count = 0
        for place, row in self._rows(name):
            count += 1
            file = None if row is None else next((row[key] for key in _names_of_files(row) if row[key]), None)
            if row is None or not isinstance(file, str):
                bad.append(place)
                continue
            self._columns += [key for key in row if key not in self._columns]
            found = self._find(folder, file)
            if found is None:
                missing = printable_name(posixpath.normpath(posixpath.join(folder, file)))
                self.problems[missing] = f"{printable_name(name)} names it, and it is not there"
                continue
            caption = caption_in(row, self._wanted)
            if captions.get(found, caption) != caption:
                self._several[printable_name(found)] = None
            captions[found] = captions.get(found) or caption
        if bad and len(bad) == count:
            raise DatasetError(
                f"{self._root / name} cannot be read: none of its {count} rows names a file; "
                "each needs a file_name and a caption, such as text"
            )
        if bad:
            shown = ", ".join(bad[:_NAMED])
            self.problems[printable_name(name)] = f"{len(bad)} of its rows cannot be read or name no file: {shown}"
        self._captions |= {file: caption for file, caption in captions.items() if caption}

    def _rows(self, name: str) -> Iterator[tuple[str, Row | None]]:
        """Yield each row with its place; None for a line that is not a row."""
        path = self._root / name
        try:
            if name.endswith(".parquet"):
                for number, row in enumerate(_parquet_rows(path)):
                    yield f"row {number}", row
                return
            yield from _json_rows(self._text(name)) if name.endswith(".jsonl") else _csv_rows(self._text(name))
        except (OSError, ValueError, csv.Error) as error:
            raise DatasetError(f"{path} cannot be read: {first_line(error)}") from None

    def _text(self, name: str, max_bytes: int = -1) -> str:
        with (self._root / name).open("rb") as file:
            text, certain = decoded(file.read(max_bytes))
        if not certain:
            self._uncertain[printable_name(name)] = None
        return text

    def _find(self, folder: str, file: str) -> str | None:
        """Return the file of the tree that a row means, whatever the spelling; None if there is none."""
        for written in (file, file.replace("\\", "/")):
            key = name_key(posixpath.normpath(posixpath.join(folder, written)))
            if found := self._by_key.get(key) or self._folded.get(key.casefold()):
                return found
        return None

    def _read_keys(self, name: str) -> bool:
        """Take in a table of img2dataset, which names images by their keys; return whether it is one."""
        path = self._root / name
        try:
            columns = set(pq.read_schema(path).names)
            if "key" not in columns or columns.isdisjoint(("caption", "url", "status")) or table_has_images(path):
                return False
            stem = posixpath.splitext(name)[0]
            for row in _parquet_rows(path):
                self._by_stem[name_key(f"{stem}/{row['key']}")] = caption_in(row, self._wanted)
        except (OSError, ValueError):
            return False  # whoever opens it as a table of images says why it cannot be read
        return True

    def _read_beside(self, name: str) -> str:
        """Read the caption in a text file beside an image."""
        try:
            text = self._text(name, _MAX_BESIDE)
        except OSError as error:
            self.problems[printable_name(name)] = f"cannot be read: {os_reason(error)}"
            return ""
        if not name.lower().endswith(".json"):
            return first_line_of(text)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.problems[printable_name(name)] = f"not JSON: {first_line(error)}"
            return ""
        return caption_in(value, self._wanted) if isinstance(value, dict) else ""


def _texts_beside(names: Sequence[str]) -> dict[tuple[str, str], str]:
    """Index the text files that lie beside an image: the key of its name, with its ending or without, and theirs."""
    owners = {
        name_key(owner)
        for name in names
        if not name.lower().endswith(_BESIDE)
        for owner in (posixpath.splitext(name)[0], name)
    }
    texts = {}
    for name in names:
        stem, ending = posixpath.splitext(name)
        if ending.lower() in _BESIDE and name_key(stem) in owners:
            texts[name_key(stem), ending.lower()] = name
    return texts


def table_has_images(path: Path) -> bool:
    """Return whether a Parquet file holds images: a column of bytes, or of `datasets`' structs of bytes and path.

    Raises:
        OSError, ValueError: if it cannot be read.
    """
    return any(holds_images(field.type) for field in pq.read_schema(path))


def holds_images(kind: pa.DataType) -> bool:
    """Return whether values of an Arrow type may hold images."""
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _parquet_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table, without the images that may be in it."""
    columns = [field.name for field in pq.read_schema(path) if not holds_images(field.type)]
    for batch in pq.ParquetFile(path).iter_batches(columns=columns):
        yield from batch.to_pylist()


def _names_of_files(row: Row) -> list[str]:
    """Return the columns that may name a row's file, the likeliest first."""
    known = [column for column in _FILE_NAMES if column in row]
    return known + [column for column in row if str(column).endswith("_file_name") and column not in known]


def _json_rows(text: str) -> Iterator[tuple[str, Row | None]]:
    # By line feeds alone: a caption may hold any other of Unicode's line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield f"line {number}", row if isinstance(row, dict) else None


def _csv_rows(text: str) -> Iterator[tuple[str, Row | None]]:
    csv.field_size_limit(_MAX_CELL)
    header = text.split("\n", 1)[0]
    # Spreadsheets write semicolons where the comma is a decimal point.
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    reader.fieldnames = names = [str(name).strip() for name in reader.fieldnames or ()]
    for row in reader:
        # More cells than columns: a caption with commas that nobody quoted.
        cells = row.pop(None, None)  # type: ignore[call-overload]
        if cells:
            row[names[-1]] = f"{delimiter} ".join([row[names[-1]], *cells])
        yield f"line {reader.line_num}", row
