"""Photographs in the rows of tables: Parquet files, folders of `Dataset.save_to_disk`, datasets of the Hub."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synth.dataset.sources.captions import caption_columns, caption_in, require_column
from synth.dataset.sources.metadata import holds_images, printable_name
from synth.dataset.sources.photo import Part, Photo, problem
from synth.errors import DatasetError, first_line, os_reason
from synth.settings import PhotoSettings

_IMAGES = ("image", "jpg", "jpeg", "png", "webp", "img", "photo", "picture")
"""Where images are looked for without --image-column; else in the one column whose type can hold them."""
_BATCH = 64  # rows in memory at once
_HUB_URL = re.compile(r"hf://datasets/(?P<id>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<folder>.+))?")


def open_parquet(root: Path, names: Sequence[str], settings: PhotoSettings) -> list[Part]:
    """Open Parquet files whose rows hold images.

    Args:
        root: the folder of the names.
        names: the files, relative to it.
        settings: the columns.

    Raises:
        DatasetError: if no file has the column that the settings name.
    """
    schemas: dict[str, pa.Schema] = {}
    parts = []
    for name in names:
        try:
            schemas[name] = pq.read_schema(root / name)
            num_rows = pq.read_metadata(root / name).num_rows
        except (OSError, ValueError) as error:
            broken = problem(printable_name(name), f"Parquet that cannot be read: {first_line(error)}")
            parts.append(Part(1, lambda broken=broken: iter([broken])))  # type: ignore[misc]
            continue
        parts.append(_open_table(root / name, printable_name(name), schemas[name], num_rows, settings))
    columns = list(dict.fromkeys(column for schema in schemas.values() for column in schema.names))
    if schemas:
        _require_image_column(root, columns, settings.image_column)
        require_column(root, columns, settings.caption_column)
    return parts


def _open_table(path: Path, name: str, schema: pa.Schema, num_rows: int, settings: PhotoSettings) -> Part:
    held = [field.name for field in schema if holds_images(field.type)]
    image = _image_column(schema.names, held, settings.image_column)
    if image is None:
        nothing = problem(name, f"Parquet without a column of images; it has {', '.join(schema.names)}")
        return Part(1, lambda: iter([nothing]))
    texts = caption_columns([name for name in schema.names if name != image], settings.caption_column)

    def read() -> Iterator[Photo]:
        row = 0
        try:
            for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=[image, *texts]):
                for item in batch.to_pylist():
                    yield _photo(item, image, f"{name}/{row}", f"row {row}", settings.caption_column)
                    row += 1
        except (OSError, ValueError) as error:
            yield problem(name, f"Parquet that cannot be read from row {row} on: {first_line(error)}")

    return Part(num_rows, read)


def open_saved(folder: Path, settings: PhotoSettings) -> Part:
    """Open a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Raises:
        DatasetError: if it cannot be read, or lacks the split or a column.
    """
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # damaged files share no base class of errors
        raise DatasetError(f"{folder} cannot be read as a saved dataset: {first_line(error)}") from None
    if isinstance(saved, datasets.DatasetDict):
        if settings.split not in saved:
            raise no_such_split(folder, settings.split, saved)
        saved = saved[settings.split]
    else:
        refuse_ignored(settings, folder, "split")
    return _open_rows(saved, str(folder), settings)


def open_hub(name: str, settings: PhotoSettings) -> Part:
    """Open a dataset of the Hub: owner/name, or hf://datasets/owner/name, with @revision and /folder.

    Raises:
        DatasetError: if there is none, it cannot be read, or it lacks the split or a column.
    """
    import datasets

    options: dict[str, Any] = {"split": settings.split}
    place = name
    if url := _HUB_URL.fullmatch(name.rstrip("/")):
        place = url["id"]
        options |= {"revision": url["revision"], "data_dir": url["folder"]}
    try:
        rows = datasets.load_dataset(place, **options)
    except Exception as error:  # the Hub, the network and damaged files share no base class of errors
        raise DatasetError(f"{name} is neither a folder here nor a Hub dataset: {first_line(error)}") from None
    return _open_rows(rows, name, settings)


def refuse_ignored(settings: PhotoSettings, source: object, *names: str) -> None:
    """Refuse settings that this kind of source does not have.

    Raises:
        DatasetError: for the first of them that has another value than the default; a run's saved recipe names all.
    """
    for name in names:
        if getattr(settings, name) != PhotoSettings.model_fields[name].default:
            raise DatasetError(f"--{name.replace('_', '-')} has no effect on {source}, which has none: leave it out")


def no_such_split(place: object, split: str, there: Iterable[str]) -> DatasetError:
    """The error for a split that a source does not have."""
    return DatasetError(f"{place} has no split {split!r}; it has {', '.join(there)}: add --split")


def _open_rows(rows: Any, place: str, settings: PhotoSettings) -> Part:
    """Open a dataset of `datasets`."""
    import datasets

    columns: list[str] = rows.column_names
    held = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    held += [name for name, kind in rows.features.items() if getattr(kind, "dtype", "") in ("binary", "large_binary")]
    image = _image_column(columns, held, settings.image_column)
    if image is None:
        _require_image_column(place, columns, settings.image_column)
        raise DatasetError(f"{place} has no column of images; it has {', '.join(columns)}: add --image-column")
    require_column(place, columns, settings.caption_column)
    if isinstance(rows.features[image], datasets.Image):
        rows = rows.cast_column(image, datasets.Image(decode=False))
    # Other columns may be audio, video or further images, which nobody needs to decode.
    texts = caption_columns([name for name in columns if name != image], settings.caption_column)
    rows = rows.select_columns([image, *texts])

    def read() -> Iterator[Photo]:
        for number, row in enumerate(rows):
            index = f"{settings.split}/{number}"
            yield _photo(row, image, index, f"row {index}", settings.caption_column)

    return Part(len(rows), read)


def _image_column(columns: Sequence[str], held: Sequence[str], wanted: str | None) -> str | None:
    """Return the column of images: the wanted one, one of the usual names, or the only one that can hold them."""
    if wanted is not None:
        return wanted if wanted in columns else None
    by_name = {column.casefold(): column for column in columns}
    named = [by_name[name] for name in _IMAGES if name in by_name]
    # A column "image" of file names beside a column "jpg" of bytes is not the one.
    usual = [column for column in named if column in held] or named
    return usual[0] if usual else held[0] if len(held) == 1 else None


def _require_image_column(place: object, columns: Sequence[str], wanted: str | None) -> None:
    if wanted is not None and wanted not in columns:
        raise DatasetError(f"{place} has no column {wanted!r}; it has {', '.join(columns)}")


def _photo(row: dict[str, Any], image: str, name: str, place: str, caption_column: str | None) -> Photo:
    """Return the photograph of a row."""
    texts = {column: value for column, value in row.items() if column != image}
    try:
        content = _content_of(row[image], place)
    except DatasetError as error:
        return problem(name, str(error))
    except OSError as error:
        return problem(name, f"cannot be read: {os_reason(error)}")
    return Photo(name, content, caption_in(texts, caption_column))


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
