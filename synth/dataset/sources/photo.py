"""A photograph as a source hands it over, and what every source has."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

MAX_BYTES = 2**30
"""Of one file: a larger one is not a photograph, and would not fit into memory beside others."""


@dataclass(frozen=True)
class Photo:
    """A file, or a row of a table, that may be an image.

    Attributes:
        name: unique in its source, the same in every import, valid UTF-8.
        content: the file's bytes; empty where there are none.
        caption: one line; may be empty.
        problem: why it cannot be used, where that is known before it is opened; "" if it is not.
    """

    name: str
    content: bytes
    caption: str
    problem: str = ""


@dataclass(frozen=True)
class Part:
    """Photographs that are opened in one way. A source has one or several.

    Attributes:
        count: how many there are, for the progress bar.
        read: iterates over them in the order of the set, reading each when it is asked for; may be called again.
        notes: what the user should know of the captions, a line each; complete once all was read.
    """

    count: int
    read: Callable[[], Iterator[Photo]]
    notes: Callable[[], list[str]] = list


@dataclass(frozen=True)
class PhotoSource:
    """A source of photographs, open.

    Attributes:
        place: what it is, such as a resolved folder or a Hub id; two sources differ in it.
        parts: in order.
    """

    place: str
    parts: list[Part]

    def __len__(self) -> int:
        return sum(part.count for part in self.parts)

    def __iter__(self) -> Iterator[Photo]:
        return (photo for part in self.parts for photo in part.read())

    @property
    def notes(self) -> list[str]:
        """What the user should know of the captions; complete once all photographs were read."""
        return [note for part in self.parts for note in part.notes()]


def problem(name: str, reason: str) -> Photo:
    """Return an item that cannot be used, for the rejects."""
    return Photo(name, b"", "", reason)
