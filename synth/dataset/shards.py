"""One Parquet shard: its columns, its types, whose it is. `datasets`, DuckDB or polars read it with nothing of ours.

data/train-00000.parquet       scenes 0 to shard_size - 1, one row each, in the order of `index`
rejects/train-00000.parquet    what was painted for that shard and not kept, with thumbnails and reasons
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.state import parse_json, reading

Row = dict[str, Any]

_REMEDY = "delete it, and it will be painted again"
_KEY = b"distillery"  # of the schema's metadata that holds what the pixels depend on
_ROW_GROUP = 100  # images: the Hub's viewer reads a group at a time, and gives up beyond 300 MB
_THUMBNAIL = 96  # px
_IMAGE = {"_type": "Image"}
_IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_VALUES = {str: "string", int: "int64", float: "double"}  # Arrow's names; those of `datasets` below
_FEATURES = {**_VALUES, float: "float64"}
_REJECT_COLUMNS: dict[str, type] = {
    "image": bytes, "index": int, "attempt": int, "prompt": str, "seed": int, "reason": str,
}  # fmt: skip


def shard_name(number: int, folder: str = "data") -> str:
    """`data/train-00007.parquet`."""
    return f"{folder}/train-{number:05d}.parquet"


def encoded(image: Image.Image, path: str) -> dict[str, Any]:
    """An image as the `datasets` Image type keeps it: the bytes of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)  # 2.5 times as fast as the usual 6, for 3 % more bytes
    return {"bytes": buffer.getvalue(), "path": path}


def thumbnail(image: Image.Image, path: str) -> dict[str, Any]:
    """The same, small and lossy, for a person to look at."""
    small = image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return {"bytes": buffer.getvalue(), "path": path}


def write_shard(store: Store, name: str, rows: Sequence[Row], columns: Mapping[str, type], identity: Row) -> None:
    """Write a shard whole, with the types of `datasets` in the schema's metadata, where it looks for them.

    Args:
        store: where.
        name: of the file.
        rows: each with every column; `image` as `encoded` makes it.
        columns: name -> str, int, float, or bytes for an image.
        identity: what the rows depend on, by name.
    """
    features = {
        name: _IMAGE if kind is bytes else {"dtype": _FEATURES[kind], "_type": "Value"}
        for name, kind in columns.items()
    }
    schema = pa.schema(
        [(name, _IMAGE_TYPE if kind is bytes else _VALUES[kind]) for name, kind in columns.items()],
        metadata={
            b"huggingface": json.dumps({"info": {"features": features}}).encode(),
            _KEY: json.dumps(identity, sort_keys=True).encode(),
        },
    )
    shard = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(list(rows), schema),
        shard,
        row_group_size=_ROW_GROUP,
        write_page_index=True,
        use_content_defined_chunking=True,
    )
    store.write(name, shard.getvalue())


def write_rejects(store: Store, name: str, rows: Sequence[Row], identity: Row) -> None:
    """The table of what was not kept."""
    write_shard(store, name, rows, _REJECT_COLUMNS, identity)


def read_columns(store: Store, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A shard, or only some of its columns.

    Raises:
        DatasetError: for a damaged file, a missing column, or one of another type than this project writes.
    """
    with _opened(store, name) as file:
        table = pq.read_table(file, columns=columns)
        for column in columns or ():
            _check_column(table, column)
    return table


def _check_column(table: pa.Table, name: str) -> None:
    """A file of somebody else's may hold anything under the names that are known here."""
    values = table[name]  # KeyError for a missing one
    kind = values.type
    if name == "image":
        right = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    elif name in ("index", "seed", "attempt"):
        right = pa.types.is_integer(kind) and values.null_count == 0
    else:
        right = (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and values.null_count == 0
    if not right:
        raise ValueError(f"its column {name!r} holds {kind}, {values.null_count} of them missing")


def read_rows(store: Store, name: str, columns: Sequence[str] | None = None) -> list[Row]:
    """The same as rows of plain values."""
    rows: list[Row] = read_columns(store, name, columns).to_pylist()
    return rows


def num_rows(store: Store, name: str) -> int:
    """How many rows a shard holds."""
    with _opened(store, name) as file:
        count: int = pq.read_metadata(file).num_rows
    return count


def column_names(store: Store, name: str) -> list[str]:
    """Of a shard."""
    with _opened(store, name) as file:
        names: list[str] = pq.read_schema(file).names
    return names


def identity_of(store: Store, name: str) -> Row:
    """What a shard's rows depend on, as it was written down.

    Raises:
        DatasetError: for a broken file, or one that this project did not write.
    """
    with _opened(store, name) as file:
        metadata = pq.read_schema(file).metadata or {}
    if _KEY not in metadata:
        raise DatasetError(f"{store}/{name} was not written by distillery: choose another folder")
    with reading(f"{store}/{name}", DatasetError, _REMEDY):
        identity: Row = parse_json(metadata[_KEY], dict[str, Any])
    return identity


@contextmanager
def _opened(store: Store, name: str) -> Iterator[Any]:
    """A shard to read; what its damage makes Arrow raise becomes one line."""
    with reading(f"{store}/{name}", DatasetError, _REMEDY), store.open(name) as file:
        yield file


def refuse_another(store: Store, name: str, identity: Row) -> None:
    """Check that a shard belongs to this set.

    Raises:
        DatasetError: if not; the message says what differs.
    """
    stored = identity_of(store, name)
    differences = [
        f"{key} is {stored.get(key)!r:.80} there and {identity.get(key)!r:.80} here"
        for key in sorted({*stored, *identity})
        if stored.get(key) != identity.get(key)
    ]
    if differences:
        raise DatasetError(
            f"{store}/{name} belongs to another set: {'; '.join(differences)}. "
            "Choose another folder, or restore the settings"
        )
