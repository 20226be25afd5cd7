"""Reading what a run or a dataset keeps: damage ends in one line that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from synth.errors import DistilleryError, first_line

T = TypeVar("T")


@contextmanager
def reading(path: object, error: type[DistilleryError], remedy: str) -> Iterator[None]:
    """Turn whatever a damaged file makes its reader raise into one line that names the file.

    Args:
        path: of the file, for the message.
        error: to raise.
        remedy: what to do, as the end of the message.
    """
    try:
        yield
    except (DistilleryError, MemoryError):
        raise
    except Exception as problem:  # json, tomllib, Arrow, safetensors and Pillow share no base class
        raise error(f"{path} cannot be read ({first_line(problem)}): {remedy}") from problem


def read_json(path: Path, kind: type[T] | Any, error: type[DistilleryError], remedy: str) -> T:
    """A JSON file's value, checked for its type.

    Args:
        path: of the file.
        kind: a type as pydantic knows them: `dict[str, str]`, a dataclass, a TypedDict.
        error: to raise.
        remedy: what to do, as the end of the message.

    Raises:
        error: if the file is missing, is not JSON, or holds a value of another type.
    """
    with reading(path, error, remedy):
        value: T = parse_json(path.read_bytes(), kind)
    return value


def parse_json(content: bytes | str, kind: type[T] | Any) -> T:
    """A JSON value, checked for its type; nesting without end and numbers out of range are errors as others are.

    Raises:
        ValueError: in one line.
    """
    try:
        value: T = TypeAdapter(kind).validate_json(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
    return value
