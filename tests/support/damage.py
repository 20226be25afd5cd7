"""Damage to files: what a full disk, a kill, a bad copy, or a hand that meant well leaves of them."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load, save

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) * 2 // 3],
    "garbage": lambda content: b"\x00\xff\xfe" * 100,
    "list": lambda content: b"[]\n",
    "null": lambda content: b"null\n",
    "number": lambda content: b"7\n",
    "text": lambda content: b'"text"\n',
    "not a number": lambda content: b"NaN\n",
    "deep": lambda content: b"[" * 100_000 + b"\n",
    "deep tables": lambda content: b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"\n",
    "huge": lambda content: b'{"step": ' + b"9" * 10_000 + b"}\n",
}
"""Wrong for every file."""


def _without_weights(content: bytes) -> bytes:
    return save({})


def _without_one(content: bytes) -> bytes:
    tensors = load(content)
    del tensors[min(tensors)]
    return save(tensors, _metadata(content))


def _with_nan(content: bytes) -> bytes:
    tensors = load(content)
    name = max(tensors, key=lambda key: tensors[key].numel())
    changed = tensors[name].clone()
    changed.view(-1)[-1] = float("nan")
    return save({**tensors, name: changed}, _metadata(content))


def _of_another_shape(content: bytes) -> bytes:
    return save({name: torch.zeros(7, 7) for name in load(content)}, _metadata(content))


def _metadata(content: bytes) -> dict[str, str]:
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header.get("__metadata__", {}))


def _table(content: bytes) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"other": [1.0, float("nan")]}), buffer)
    return buffer.getvalue()


def _array(content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.full((3, 2), np.nan))
    return buffer.getvalue()


def _objects(content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    return buffer.getvalue()


def _truncated_toml(content: bytes) -> bytes:
    """Cut after a key, wherever two thirds of the file may end."""
    return content[: content.rindex(b"=", 0, len(content) * 2 // 3) + 1]


OF_A_KIND: dict[str, dict[str, Callable[[bytes], bytes]]] = {
    ".safetensors": {
        "without weights": _without_weights,
        "without one": _without_one,
        "with NaN": _with_nan,
        "of another shape": _of_another_shape,
    },
    ".parquet": {"another table": _table},
    ".npy": {"another array": _array, "pickled objects": _objects},
    ".json": {"an empty table": lambda content: b"{}\n"},
    ".jsonl": {"an empty table": lambda content: b"{}\n"},
    ".toml": {"truncated": _truncated_toml},
}
"""Well-formed files of the same kind that hold something else. (TOML cut between two lines is well-formed.)"""


def damages_of(name: str) -> dict[str, Callable[[bytes], bytes]]:
    """All damage that a file of this name may take."""
    return DAMAGE | OF_A_KIND.get(Path(name).suffix, {})


def wrong_shapes(value: Any) -> Iterator[Any]:
    """Every value that is like a JSON value, with one thing missing or of another type."""
    if isinstance(value, dict):
        for key, inner in value.items():
            rest = {other: kept for other, kept in value.items() if other != key}
            yield rest
            yield from ({**rest, key: changed} for changed in wrong_shapes(inner))
    elif isinstance(value, list) and value:
        yield from ([changed, *value[1:]] for changed in wrong_shapes(value[0]))
    others = (None, [], {}, "text", -1, 1.5, float("nan"), True)
    yield from (other for other in others if type(other) is not type(value))
