"""What commands have written into a folder, so that they overwrite nothing else and make nothing twice.

Beside its results a command keeps the list `.distillery-results.jsonl`: for each result the hash of its bytes, what
it was made from, and how. A file counts as a result while its bytes are those that a command wrote, under any name.
Once somebody has changed it, it is theirs. A line is written before its file, so a killed process leaves no result
that the list does not know.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import chain, count
from pathlib import Path

from synth.errors import FileError, os_reason
from synth.files import make_folder, whole_file
from synth.words import WORD_CHARACTERS, nfc

LIST = ".distillery-results.jsonl"
_MAX_STEM_BYTES, _MAX_EDIT_BYTES = 110, 80  # of a name, for which file systems allow 255


@dataclass(frozen=True)
class Wanted:
    """A result that a command wants to have."""

    source: Path | None
    """The image that it is made from; None for what has no single one, such as a contact sheet."""
    label: str
    """What it is of its source: the command, and the name of the edit."""
    key: str = ""
    """A hash of all that it is made with: model, edit, strength, format."""


@dataclass(frozen=True)
class Record:
    """A line of the list. Paths are relative to the list's folder, so that all may be moved together."""

    file: str
    file_state: str
    sha256: str
    source: str
    """Empty where there is no single source."""
    source_state: str
    source_sha256: str
    label: str
    key: str

    @property
    def owner(self) -> tuple[str, str]:
        """Whose result it is: only it may be replaced by another one of the same owner."""
        return self.source, self.label


class Results:
    """The results in a folder and below it, as the folder's list has them."""

    def __init__(self, folder: Path) -> None:
        """Read the list, if there is one.

        Raises:
            FileError: if it cannot be read.
        """
        self.folder = folder
        self._by_owner: dict[tuple[str, str], Record] = {}
        self._by_file: dict[str, Record] = {}
        self._by_content: dict[str, dict[str, Record]] = {}  # the file's size -> its hash -> the latest
        self._by_source_size: dict[tuple[str, str, str], list[Record]] = {}
        self._taken: dict[str, tuple[str, str]] = {}  # names that were given out, in one spelling
        for record in _read_list(folder / LIST):
            self._add(record)

    def find(self, wanted: Wanted) -> Path | None:
        """Return the result if it was made already, of this very source in this very way, and nobody changed it."""
        if wanted.source is None:
            return None
        owner = self._owner(wanted)
        record = self._by_owner.get(owner)
        try:
            if record is None or record.key != wanted.key or not _is_unchanged(wanted.source, record):
                record = self._of_moved(wanted)
        except OSError:  # whoever reads the source next says so
            return None
        if record is None or not self._is_intact(record):
            return None
        self._taken[one_spelling(record.file)] = owner
        return self.folder / record.file

    def choose(self, wanted: Wanted, stem: Path, after: str, suffix: str, others: tuple[str, ...] = ()) -> Path:
        """Choose where a result goes: over its own older version, or to a name that is free.

        Args:
            wanted: the result.
            stem: the start of its path, relative to the folder.
            after: the rest of its name, "_red".
            suffix: ".png".
            others: what may stand between the two where the name is taken, before numbers do.
        """
        owner = self._owner(wanted)
        before = self._by_owner.get(owner)
        names = (
            f"{_shortened(stem.name, _MAX_STEM_BYTES)}{between}{after}{suffix}"
            for between in chain(("",), others, (f"-{number}" for number in count(2)))
        )
        former = [before.file] if before is not None and Path(before.file).suffix == suffix else []
        files = chain(former, ((stem.parent / name).as_posix() for name in names))
        file = next(file for file in files if self._is_free(file, owner))
        self._taken[one_spelling(file)] = owner
        return self.folder / file

    @contextmanager
    def put(self, wanted: Wanted, path: Path) -> Iterator[Path]:
        """Yield an empty file to fill. On exit without an error it becomes the result at the path, and is recorded.

        Raises:
            FileError: if it cannot be written.
        """
        make_folder(path.parent)
        with whole_file(path) as part:
            yield part
            state = digest = ""
            if wanted.source is not None:
                state = _state(wanted.source)
                digest = _digest(wanted.source, state)
            file = path.relative_to(self.folder).as_posix()
            source, label = self._owner(wanted)
            record = Record(
                file, _state(part, ctime=False), file_digest(part), source, state, digest, label, wanted.key
            )
            self._append(json.dumps(asdict(record)))
            self._add(record)

    def record_of(self, path: Path) -> Record | None:
        """Return the latest record of a file whose bytes are those that a command wrote, under any name."""
        try:
            if path.is_symlink():
                return None
            state = _state(path, ctime=False)
            record = self._by_file.get(self._relative(path))
            if record is not None and record.file_state == state:
                return record
            same_size = self._by_content.get(_size(state))
            if not same_size:
                return None
            digest = file_digest(path)
            if record is not None and record.sha256 == digest:
                return record
            found = same_size.get(digest)
            # At strength 0 a result is a copy, whose bytes alone do not tell it from the image.
            return found if found is not None and found.sha256 != found.source_sha256 else None
        except OSError:
            return None  # not there, or not to be read: nobody's result

    def source_of(self, record: Record) -> Path | None:
        """Return the path of the image that a result was made from, if it has a single one."""
        return self.folder / record.source if record.source else None

    def _append(self, line: str) -> None:
        """Append a line to the list, on a line of its own even where a kill left half of one."""
        with (self.folder / LIST).open("a+b") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            last = file.read(1)
            start = b"" if last in (b"", b"\n") else b"\n"
            file.write(start + line.encode() + b"\n")  # at the end, wherever it has read

    def _add(self, record: Record) -> None:
        self._by_owner[record.owner] = self._by_file[record.file] = record
        self._by_content.setdefault(_size(record.file_state), {})[record.sha256] = record
        of_source = (_size(record.source_state), record.label, record.key)
        self._by_source_size.setdefault(of_source, []).append(record)

    def _owner(self, wanted: Wanted) -> tuple[str, str]:
        return self._relative(wanted.source) if wanted.source is not None else "", wanted.label

    def _relative(self, path: Path) -> str:
        try:
            return Path(os.path.relpath(path, self.folder)).as_posix()
        except ValueError:  # on another drive of Windows
            return path.absolute().as_posix()

    def _of_moved(self, wanted: Wanted) -> Record | None:
        """Return the record of a result whose source lay elsewhere, and is not there any more."""
        assert wanted.source is not None
        state = _state(wanted.source)
        for record in reversed(self._by_source_size.get((_size(state), wanted.label, wanted.key), [])):
            if not (self.folder / record.source).exists() and record.source_sha256 == _digest(wanted.source, state):
                return record
        return None

    def _is_intact(self, record: Record) -> bool:
        found = self.record_of(self.folder / record.file)
        return found is not None and found.sha256 == record.sha256

    def _is_free(self, file: str, owner: tuple[str, str]) -> bool:
        if self._taken.get(one_spelling(file), owner) != owner:
            return False
        path = self.folder / file
        if not os.path.lexists(path):
            return True
        record = self._by_file.get(file)
        # Its hash is taken anew, for what is there is about to be replaced.
        is_ours = (
            path.is_file()
            and not path.is_symlink()
            and file_digest(path) in self._by_content.get(_size(_state(path)), {})
        )
        return record is not None and record.owner == owner and is_ours


def part_of_name(edit: str) -> str:
    """Return an edit's name, which comes out of a model file, as part of a file's name."""
    return _shortened(re.sub(rf"[^{WORD_CHARACTERS}.-]+", "-", nfc(edit)), _MAX_EDIT_BYTES)


def key_of(*parts: object) -> str:
    """Compute the key of a result from JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=8)
def _digest(path: Path, state: str) -> str:
    """Return the hash of a file in a known state: an image is hashed once for all of its edits."""
    return file_digest(path)


def _state(path: Path, ctime: bool = True) -> str:
    """What changes with a file's content: its size and times. Copies have another ctime, and renamed files."""
    status = path.stat()
    times = [status.st_mtime_ns, status.st_ctime_ns] if ctime else [status.st_mtime_ns]
    return " ".join(map(str, [status.st_size, *times]))


def _size(state: str) -> str:
    return state.partition(" ")[0]


def _is_unchanged(source: Path, record: Record) -> bool:
    state = _state(source)
    if state == record.source_state:
        return True
    return _size(state) == _size(record.source_state) and _digest(source, state) == record.source_sha256


def one_spelling(file: str) -> str:
    """Return what is the same for names that some file systems take for one: `A.png`, `a.png`, `é` in two pieces."""
    return nfc(file).casefold()


def _shortened(name: str, max_bytes: int) -> str:
    """Cut a name that is too long for a file system, with a hash of the whole in its place."""
    encoded = os.fsencode(name)
    if len(encoded) <= max_bytes:
        return name
    return f"{encoded[: max_bytes - 9].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:8]}"


def _read_list(path: Path) -> Iterator[Record]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise FileError(f"{path} cannot be read: {os_reason(error)}; it tells which files are results") from error
    for line in lines:
        try:
            values = json.loads(line)
            texts = {field.name: values[field.name] for field in fields(Record)}
        except (ValueError, KeyError, TypeError):  # half a line: the process was killed while it wrote
            continue
        if all(isinstance(text, str) for text in texts.values()):
            yield Record(**texts)
