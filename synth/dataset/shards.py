"""One Parquet shard: its columns, types and identity. `datasets`, DuckDB and polars read it without this project.

data/train-00000.parquet       scenes 0 to shard_size - 1, one row each, in the order of `index`
rejects/train-00000.parquet    the images painted for that shard and rejected: thumbnails and reasons
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from synth.dataset.prompts import Scene
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.images.encoding import png_bytes
from synth.settings import SceneSettings
from synth.state import parse_json, reading

Row = dict[str, Any]

_REMEDY = "delete it, and it will be painted again"
_KEY = b"distillery"  # of the identity in the schema's metadata
_SHARD = re.compile(r"[a-z]+/train-[0-9]{5,}\.parquet")
# The Hub's viewer reads whole groups, of at most 300 MB; from 2 GiB on, Arrow writes them and cannot read them.
_ROW_GROUP, _ROW_GROUP_BYTES = 100, 300_000_000
_THUMBNAIL = 96  # px
_IMAGE = {"_type": "Image"}
_IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_VALUES = {str: "string", int: "int64", float: "double"}  # types as Arrow names them
_FEATURES = {**_VALUES, float: "float64"}  # as `datasets` names them
_REJECT_COLUMNS: dict[str, type] = {
    "image": bytes, "index": int, "attempt": int, "prompt": str, "seed": int, "reason": str,
}  # fmt: skip


def shard_name(number: int, folder: str = "data") -> str:
    """Return the name of a shard's file: `data/train-00007.parquet`."""
    return f"{folder}/train-{number:05d}.parquet"


def shard_names(store: Store, folder: str = "data") -> list[str]:
    """List the shards of a dataset, in their order; a person's copy, `train-00007 (1).parquet`, is not among them."""
    names = [name for name in store.names(f"{folder}/train-*.parquet") if _SHARD.fullmatch(name)]
    return sorted(names, key=lambda name: (len(name), name))  # train-100000 comes after train-99999


def encoded(image: Image.Image, path: str) -> dict[str, Any]:
    """Encode an image as a value of the `datasets` type Image: the bytes of a PNG."""
    return {"bytes": png_bytes(image, compress_level=4), "path": path}  # 2.5 times as fast as 6, for 3 % more bytes


def thumbnail(image: Image.Image, path: str) -> dict[str, Any]:
    """Encode a small, lossy version of an image for people to look at."""
    small = image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return {"bytes": buffer.getvalue(), "path": path}


def scene_columns(settings: SceneSettings) -> dict[str, type]:
    """Return the columns of a shard of painted scenes and their types, for `write_shard`."""
    columns: dict[str, type] = {"image": bytes, "prompt": str, "seed": int, "index": int}
    columns |= {"width": int, "height": int, "contrast": float}
    if settings.filters.near_duplicates is not None:
        columns["phash"] = str
    if settings.filters.clip:
        columns["clip_score"] = float
    return columns | {f"slot_{name}": str for name in sorted(settings.slots)}


def scene_row(scene: Scene, image: Image.Image, scores: Mapping[str, float | str]) -> Row:
    """Return the row of a painted scene; `scores` are what the filters measured."""
    slots = {f"slot_{name}": value for name, value in scene.slots.items()}
    return {
        "image": encoded(image, f"{scene.index:06d}.png"),
        "prompt": scene.prompt,
        "seed": scene.seed,
        "index": scene.index,
        "width": image.width,
        "height": image.height,
        **scores,
        **slots,
    }


def reject_row(scene: Scene, attempt: int, image: Image.Image | None, reason: str) -> Row:
    """Return the row of a rejected image; None stands for one that the safety checker blacked out."""
    name = f"{scene.index:06d}-{attempt}.jpg"
    return {
        "image": None if image is None else thumbnail(image, name),
        "index": scene.index,
        "attempt": attempt,
        "prompt": scene.prompt,
        "seed": scene.seed,
        "reason": reason,
    }


def write_shard(store: Store, name: str, rows: Sequence[Row], columns: Mapping[str, type], identity: Row) -> None:
    """Write a shard, whole or not at all.

    Args:
        store: the dataset.
        name: the file's.
        rows: each with every column; `image` as `encoded` makes it.
        columns: name -> str, int, float, or bytes for an image.
        identity: what the rows depend on, by name.

    Raises:
        DatasetError: if it cannot be written.
    """
    # `datasets` reads its own types from the schema's metadata: without them an image is a struct of bytes and path.
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
        row_group_size=max(1, min(_ROW_GROUP, _ROW_GROUP_BYTES // _largest_image(rows, columns))),
        write_page_index=True,
        use_content_defined_chunking=True,
    )
    store.write(name, shard.getvalue())


def _largest_image(rows: Sequence[Row], columns: Mapping[str, type]) -> int:
    """Return the bytes of the largest encoded image, at least 1."""
    images = (row[name] for row in rows for name, kind in columns.items() if kind is bytes)
    return max((len(image["bytes"]) for image in images if image is not None), default=1)


def write_rejects(store: Store, name: str, rows: Sequence[Row], identity: Row) -> None:
    """Write the table of a shard's rejects, whole or not at all."""
    write_shard(store, name, rows, _REJECT_COLUMNS, identity)


def read_columns(store: Store, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a shard, or only some of its columns.

    Raises:
        DatasetError: for a damaged file, or a column that is missing or of another type than this project writes.
    """
    with _opened(store, name) as file:
        table = pq.read_table(file, columns=columns)
        for column in columns or ():
            _check_column(table, column)
    return table


def _check_column(table: pa.Table, name: str) -> None:
    """Raise ValueError if a column has another type than this project writes: a foreign file may hold anything."""
    values = table[name]  # KeyError for a missing one
    kind = values.type
    if name == "image":
        valid = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    elif name in ("index", "seed", "attempt"):
        valid = pa.types.is_integer(kind) and values.null_count == 0
    else:
        valid = (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and values.null_count == 0
    if not valid:
        raise ValueError(f"its column {name!r} holds {kind}, {values.null_count} of them missing")


class ShardImages:
    """The encoded images in a dataset's shards.

    One shard is in memory at a time, for a dataset may be larger than memory.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = ""
        self._column = pa.chunked_array([], _IMAGE_TYPE)

    def content(self, name: str, row: int) -> bytes:
        """Return an image as its shard has it; never from its path, which may name any file.

        Raises:
            DatasetError: for a damaged shard, or a row without an image.
        """
        if name != self._name:
            # It stays in its chunks: one array of Arrow's holds no more than 2 GiB.
            self._column, self._name = read_columns(self._store, name, ["image"])["image"], name
        with reading_image(self._store, name, row):
            content: bytes | None = self._column[row]["bytes"].as_py()
            if content is None:
                raise ValueError("it holds no image")
            return content


def reading_image(store: Store, name: str, row: int) -> AbstractContextManager[None]:
    """Explain what goes wrong in the block as damage of one row's image."""
    remedy = "delete the shard, and it will be made again"
    return reading(f"{store}/{name}, row {row}", DatasetError, remedy)


def read_rows(store: Store, name: str, columns: Sequence[str] | None = None) -> list[Row]:
    """Read a shard as rows of plain values.

    Raises:
        DatasetError: as `read_columns`.
    """
    rows: list[Row] = read_columns(store, name, columns).to_pylist()
    return rows


def num_rows(store: Store, name: str) -> int:
    """Return the number of a shard's rows."""
    with _opened(store, name) as file:
        count: int = pq.read_metadata(file).num_rows
    return count


def column_names(store: Store, name: str) -> list[str]:
    """Return the names of a shard's columns."""
    with _opened(store, name) as file:
        names: list[str] = pq.read_schema(file).names
    return names


def identity_of(store: Store, name: str) -> Row:
    """Read what a shard's rows depend on, by name.

    Raises:
        DatasetError: for a damaged file, or one that this project did not write.
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
    """Open a shard; an error of Arrow becomes a DatasetError."""
    with reading(f"{store}/{name}", DatasetError, _REMEDY), store.open(name) as file:
        yield file


def refuse_another(store: Store, name: str, identity: Row) -> None:
    """Check that a shard belongs to the dataset of this identity.

    Raises:
        DatasetError: if it does not; the message says what differs.
    """
    stored = identity_of(store, name)
    differences = [
        f"{key} is {stored.get(key)!r:.80} there and {identity.get(key)!r:.80} here"
        for key in sorted({*stored, *identity})
        if stored.get(key) != identity.get(key)
    ]
    if differences:
        raise DatasetError(
            f"{store}/{name} belongs to another dataset: {'; '.join(differences)}. "
            "Choose another folder, or restore the settings"
        )
