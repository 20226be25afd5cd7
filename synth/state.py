"""Reads the files of runs and datasets: damage becomes a one-line error that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from synth.errors import DistilleryError, first_line

T = TypeVar("T")


@contextmanager
def reading(path: object, error: type[DistilleryError], remedy: str) -> Iterator[None]:
    """Turn any error of reading a damaged file into a one-line error that names the file.

    Args:
        path: the file, for the message.
        error: the class to raise.
        remedy: what the user can do; it ends the message.
    """
    try:
        yield
    except (DistilleryError, MemoryError):
        raise
    except Exception as problem:  # json, tomllib, Arrow, safetensors and Pillow share no base class
        raise error(f"{path} cannot be read ({first_line(problem)}): {remedy}") from problem


def read_json(path: Path, kind: type[T] | Any, error: type[DistilleryError], remedy: str) -> T:
    """Read a JSON file and check the type of its value.

    Args:
        path: the file.
        kind: any type that pydantic can check: `dict[str, str]`, a dataclass, a TypedDict.
        error: the class to raise.
        remedy: what the user can do; it ends the message.

    Raises:
        error: if the file is missing, is not JSON, or holds a value of another type.
    """
    with reading(path, error, remedy):
        value: T = parse_json(path.read_bytes(), kind)
    return value


def parse_json(content: bytes | str, kind: type[T] | Any) -> T:
    """Parse a JSON value and check its type.

    Raises:
        ValueError: in one line, also for endless nesting and numbers out of range.
    """
    try:
        value: T = TypeAdapter(kind).validate_json(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
    return value
