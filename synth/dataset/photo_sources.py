"""Opens sources of photographs: a folder of files, Parquet, or a dataset on the Hub, each with its captions."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from synth.errors import DatasetError, first_line
from synth.settings import PhotoSettings

_METADATA = ("metadata.jsonl", "metadata.csv")  # captions beside the images, as in `datasets` image folders
_BATCH = 64  # Parquet rows in memory at once


@dataclass(frozen=True)
class Photo:
    """A file that may be an image.

    Attributes:
        name: unique in its source, and the same in every import.
        content: the file's bytes; empty where a row has no image.
        caption: may be empty.
    """

    name: str
    content: bytes
    caption: str


def open_photos(source: str, settings: PhotoSettings) -> tuple[list[str], Iterator[Photo]]:
    """Open a source of photographs.

    Args:
        source: a folder (captions in `metadata.jsonl` or `.csv`), a Parquet file, a folder of those, or the Hub id of
            a dataset.
        settings: the columns of images and captions, and the split.

    Returns:
        The names of all photographs, and the photographs in that order, each read when it is asked for.

    Raises:
        DatasetError: if there is no such source, it cannot be read, or it lacks the column of images.
    """
    path = Path(source)
    if path.is_dir():
        if parquet := sorted(path.rglob("*.parquet")):
            return _open_parquet(parquet, settings)
        return _open_folder(path, settings)
    if path.is_file() and path.suffix == ".parquet":
        return _open_parquet([path], settings)
    if path.exists():
        raise DatasetError(f"{source} is neither a folder nor a Parquet file: put the images into a folder")
    return _open_hub(source, settings)


def captions_of(folder: Path, column: str) -> dict[str, str]:
    """Read the captions of an image folder from its metadata file, if it has one: file_name -> caption.

    Raises:
        DatasetError: if the metadata cannot be read.
    """
    metadata = next((folder / name for name in _METADATA if (folder / name).exists()), None)
    if metadata is None:
        return {}
    try:
        text = metadata.read_text(encoding="utf-8")
        rows: list[dict[str, Any]] = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if metadata.suffix == ".jsonl"
            else list(csv.DictReader(io.StringIO(text)))
        )
        return {str(row["file_name"]): str(row.get(column) or "") for row in rows}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DatasetError(f"{metadata} cannot be read ({error!r}): every row needs a file_name") from None


def _open_folder(folder: Path, settings: PhotoSettings) -> tuple[list[str], Iterator[Photo]]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in _METADATA)
    captions = captions_of(folder, settings.caption_column)
    named = {file.relative_to(folder).as_posix(): file for file in files}
    return list(named), (Photo(name, file.read_bytes(), captions.get(name, "")) for name, file in named.items())


def _open_parquet(paths: list[Path], settings: PhotoSettings) -> tuple[list[str], Iterator[Photo]]:
    try:
        counts = [pq.read_metadata(path).num_rows for path in paths]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{paths[0].parent} has Parquet that cannot be read: {first_line(error)}") from None
    names = [f"{path.name}/{row}" for path, count in zip(paths, counts, strict=True) for row in range(count)]
    columns = pq.read_schema(paths[0]).names
    _check_image_column(str(paths[0]), columns, settings.image_column)
    wanted = [name for name in (settings.image_column, settings.caption_column) if name in columns]

    def read() -> Iterator[Photo]:
        for path in paths:
            row = 0
            for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=wanted):
                for item in batch.to_pylist():
                    content = _content_of(item[settings.image_column], f"{path}, row {row}")
                    yield Photo(f"{path.name}/{row}", content, str(item.get(settings.caption_column) or ""))
                    row += 1

    return names, read()


def _open_hub(name: str, settings: PhotoSettings) -> tuple[list[str], Iterator[Photo]]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split=settings.split)
    except Exception as error:  # the Hub, the network and damaged files share no base class of errors
        raise DatasetError(f"{name} is neither a folder here nor a Hub dataset: {first_line(error)}") from None
    _check_image_column(name, rows.column_names, settings.image_column)
    rows = rows.cast_column(settings.image_column, datasets.Image(decode=False))

    def read() -> Iterator[Photo]:
        for number, row in enumerate(rows):
            place = f"{settings.split}/{number}"
            content = _content_of(row[settings.image_column] or {}, f"{name}, row {place}")
            yield Photo(place, content, str(row.get(settings.caption_column) or ""))

    return [f"{settings.split}/{number}" for number in range(len(rows))], read()


def _check_image_column(source: str, columns: list[str], wanted: str) -> None:
    if wanted not in columns:
        raise DatasetError(f"{source} has no column {wanted!r}; it has {', '.join(columns)}")


def _content_of(item: Any, place: str) -> bytes:
    """Return the bytes of a row's image, or no bytes where the row has no image.

    A dataset from elsewhere could name any file of this machine. Only files in the caches of `datasets` and the Hub
    are read.

    Raises:
        DatasetError: if the row names a file outside of these caches.
    """
    if isinstance(item, bytes):
        return item
    if isinstance(item, str) and item:
        raise DatasetError(_names_a_file(place, item))
    if not isinstance(item, dict):
        return b""
    if isinstance(item.get("bytes"), bytes) and item["bytes"]:
        return bytes(item["bytes"])
    if not item.get("path"):
        return b""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    # Resolve the path first: a link inside the cache, or `..`, may lead out of it.
    caches = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE)
    path = Path(str(item["path"])).resolve()
    if not any(path.is_relative_to(Path(cache).resolve()) for cache in caches):
        raise DatasetError(_names_a_file(place, item["path"]))
    return path.read_bytes()


def _names_a_file(place: str, path: object) -> str:
    return (
        f"{place} names a file of this machine, {path!r}: a dataset must contain its images; "
        "import a folder of them instead"
    )
