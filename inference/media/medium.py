"""What all kinds of media have in common, and still images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

from inference.runtime import MAX_BATCH, ImageError, Translator
from synth.images import reader
from synth.images.reader import SUFFIXES, SourceImage
from synth.images.writer import suffix_for, write_image, written_format

T = TypeVar("T")
Progress = Callable[[Iterable[T], Path, int | None], Iterable[T]]
"""Passes frames on and shows how many there have been, of a file, out of how many (None: unknown)."""


@dataclass(frozen=True)
class Edit:
    """One edit, ready to be made."""

    translator: Translator
    name: str
    strength: float = 1.0

    def __call__(self, images: list[SourceImage]) -> list[SourceImage]:
        """Make it in images that are in memory.

        Raises:
            EditError: if the network's numbers overflow.
        """
        return self.translator(images, self.name, self.strength)


class Medium(ABC):
    """A file to edit. Nothing is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def first(self) -> SourceImage:
        """Its first frame. Raises ImageError, or ImageInputError for a video."""

    @property
    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """What is left out of its results, a few words each."""

    def key(self, format: str | None) -> list[str | None]:
        """Return what its results depend on beside model, edit and strength, for the list of results."""
        return [format]

    @abstractmethod
    def takes(self, format: str | None) -> bool:
        """Return whether an exact copy of the file is what is asked for where nothing is to change."""

    @abstractmethod
    def suffix(self, format: str | None) -> str:
        """Return the ending of its results."""

    @property
    @abstractmethod
    def own_suffix(self) -> str:
        """The ending of a copy."""

    @abstractmethod
    def write(self, edit: Edit, part: Path, format: str | None, progress: Progress[SourceImage]) -> SourceImage:
        """Make an edit of it, write the result into an empty file, and return its first frame.

        Raises:
            ImageError, ImageInputError: if it is broken, or the format cannot hold it.
            EditError: if the network's numbers overflow.
            OSError: if the file cannot be written.
        """


class Still(Medium):
    """An image, or the first frame or page of what has several and is not written with several."""

    @cached_property
    def first(self) -> SourceImage:
        """See Medium."""
        return read(self.path)

    @property
    def notes(self) -> tuple[str, ...]:
        """See Medium."""
        return self.first.notes

    def takes(self, format: str | None) -> bool:
        """See Medium."""
        return format in (None, self.first.format)

    def suffix(self, format: str | None) -> str:
        """See Medium."""
        return suffix_for(self.path, format)

    @property
    def own_suffix(self) -> str:
        """See Medium."""
        return suffix_of(self.path, self.first.format)

    def write(self, edit: Edit, part: Path, format: str | None, progress: Progress[SourceImage]) -> SourceImage:
        """See Medium."""
        (edited,) = edit([self.first])
        try:
            write_image(edited, part, format or written_format(self.first.format))
        except reader.ImageError as error:
            raise ImageError(f"{self.path}: {error}") from error
        return edited


def edited_in_batches(frames: Iterable[SourceImage], edit: Edit) -> Iterator[SourceImage]:
    """Edit frames one after the other, as many at a time as fit one pass of the network."""
    frames = iter(frames)
    while batch := list(islice(frames, MAX_BATCH)):
        yield from edit(batch)


def read(path: Path) -> SourceImage:
    """Read an image, with the runtime's error for one that cannot be read."""
    try:
        return reader.read_image(path)
    except reader.ImageError as error:
        raise ImageError(str(error)) from error


def suffix_of(path: Path, format: str) -> str:
    """Return a file's own ending where it is one of its format's, else the format's usual one."""
    own = path.suffix.lower()
    return own if own in SUFFIXES[format] else SUFFIXES[format][0]
