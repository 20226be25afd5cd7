"""Reads the files of runs and datasets: damage becomes a one-line error that names the file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from synth.errors import DistilleryError, first_line

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Scalar = TypeVar("Scalar", bound=np.generic)


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


def read_json_lines(path: Path, kind: type[T] | Any, error: type[DistilleryError], remedy: str) -> list[T]:
    """Read a file of JSON values, one a line, and check the type of each; empty lines are skipped.

    Args:
        path: the file.
        kind: any type that pydantic can check.
        error: the class to raise.
        remedy: what the user can do; it ends the message.

    Raises:
        error: if the file is missing, or a line is not JSON or holds a value of another type.
    """
    values: list[T] = []
    with reading(path, error, remedy):
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            if line.strip():
                try:
                    values.append(parse_json(line, kind))
                except ValueError as problem:
                    raise ValueError(f"line {number}: {problem}") from None
    return values


def read_array(
    path: Path,
    dtype: type[Scalar],
    shape: tuple[int | None, ...],
    error: type[DistilleryError],
    remedy: str,
    mmap_mode: Literal["r", "c"] | None = None,
) -> NDArray[Scalar]:
    """Read a .npy file and check its type and shape. Nothing is unpickled.

    Args:
        path: the file.
        dtype: of its values.
        shape: None stands for any length.
        error: the class to raise.
        remedy: what the user can do; it ends the message.
        mmap_mode: map the file, read-only or copy-on-write, instead of reading it (default: read it).

    Raises:
        error: if the file is missing, damaged, or holds an array of another type or shape.
    """
    with reading(path, error, remedy):
        array: NDArray[Scalar] = np.load(path, mmap_mode=mmap_mode)
        fits = len(array.shape) == len(shape) and all(
            wanted in (None, length) for length, wanted in zip(array.shape, shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            wanted_shape = tuple("any" if length is None else length for length in shape)
            raise ValueError(f"it holds {array.dtype} {array.shape}, not {np.dtype(dtype)} {wanted_shape}")
    return array


def read_tensors(
    path: Path, error: type[DistilleryError], remedy: str, device: str = "cpu"
) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Read a safetensors file, and check that its numbers are finite.

    Args:
        path: the file.
        error: the class to raise.
        remedy: what the user can do; it ends the message.
        device: of the tensors.

    Returns:
        The tensors, and the file's metadata.

    Raises:
        error: if the file is missing or damaged.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    with reading(path, error, remedy):
        tensors = load_file(path, device=device)
        refuse_infinite(tensors)
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    return tensors, metadata


def read_network(kind: Any, folder: Path, error: type[DistilleryError], remedy: str) -> Any:
    """Load a diffusers network from the folder that it was saved in, with all of its weights.

    diffusers itself fills in random weights where a file lacks some, and says so in its log alone.

    Args:
        kind: the network's class.
        folder: with its config and weights.
        error: the class to raise.
        remedy: what the user can do; it ends the message.

    Raises:
        error: if a file is missing or damaged, or lacks weights, or holds weights that are not finite.
    """
    from torch import device

    config: dict[str, Any] = read_json(folder / "config.json", dict[str, Any], error, remedy)
    # First without weights, to know which of the two files is wrong.
    with reading(folder / "config.json", error, remedy), device("meta"):
        if "_class_name" not in config:
            raise ValueError("it names no class")
        kind.from_config(config)
    files = sorted(folder.glob("*.safetensors"))
    with reading(files[0] if len(files) == 1 else folder, error, remedy):
        if not files:
            raise ValueError("it has no safetensors")
        network, loading = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if loading.get(problem):
                raise ValueError(f"{problem.removesuffix('_keys')} weights: {next(iter(loading[problem]))}")
        refuse_infinite(network.state_dict())
    return network


def refuse_infinite(tensors: "Mapping[str, Tensor]") -> None:
    """Raise ValueError for the first tensor that holds NaN or an infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} holds numbers that are not finite")
