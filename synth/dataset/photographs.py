"""One's own photographs into a data set: the shards that `synthesize` writes, so that training asks no questions.

Whatever is in a folder may come in: images turned by their EXIF, CMYK, 16 bits, alpha, animations, truncated files,
files that are no images. Each is made an RGB square, or rejected with its reason; none stops the import.
"""

import csv
import hashlib
import io
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from synth.cards import parquet_config, render_card
from synth.dataset.gallery import write_index, write_page
from synth.dataset.shards import (
    Row,
    encoded,
    num_rows,
    read_rows,
    refuse_another,
    shard_name,
    write_rejects,
    write_shard,
)
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.images import open_lazily
from synth.settings import PhotoSettings

_COLUMNS: dict[str, type] = {
    "image": bytes, "prompt": str, "seed": int, "index": int, "width": int, "height": int, "source": str,
}  # fmt: skip
_MAX_PIXELS = 250_000_000  # of a file, before it is opened
_NAMES_A_FILE = "names a file of this machine, {!r}: a data set holds its images itself; import a folder of them"
_METADATA = ("metadata.jsonl", "metadata.csv")  # beside the images, as `datasets` image folders have it


class Rejected(Exception):
    """An image that cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Photo:
    """A file that may be an image."""

    name: str
    content: bytes
    caption: str


def import_photos(source: str, settings: PhotoSettings, out: str | Path, progress: bool = True) -> Store:
    """Turn photographs into a data set at `out`; an import that was stopped goes on.

    Args:
        source: a folder (with `metadata.jsonl` or `.csv` for captions, if there is one), a Parquet file or a folder
            of them, or the Hub id of a data set.
        settings: sizes and rules.
        out: the data set's folder, or a URL that fsspec knows.
        progress: show a bar.

    Raises:
        DatasetError: if there is no such source, no usable image in it, or another set at `out`.
    """
    store = Store(out)
    names, photos = _open(source, settings)
    identity = {**settings.model_dump(mode="json"), "photos": hashlib.sha256("\\n".join(names).encode()).hexdigest()}
    there = store.names("data/train-*.parquet")
    for name in there:
        refuse_another(store, name, identity)
    whole = [name for name in there if num_rows(store, name) == settings.shard_size]
    if there and len(whole) < len(there):
        return store  # a short shard is the last one: the import was finished
    seen = {row["seed"]: row["source"] for name in whole for row in read_rows(store, name, ["seed", "source"])}
    rejected = {
        row["prompt"] for name in store.names("rejects/train-*.parquet") for row in read_rows(store, name, ["prompt"])
    }
    done = rejected | set(seen.values())
    rows: list[Row] = []
    rejects: list[Row] = []
    number = len(whole)
    with tqdm(total=len(names), initial=len(done), unit="file", desc="importing", disable=not progress) as bar:
        for photo in photos:
            if photo.name in done:
                continue
            index = number * settings.shard_size + len(rows)
            seed = int.from_bytes(hashlib.sha256(photo.content).digest()[:7])
            try:
                if seed in seen:
                    raise Rejected(f"the same image as {seen[seed]}")
                image = prepared(photo.content, settings)
            except Rejected as error:
                rejects.append(_reject(photo, index, seed, str(error)))
            else:
                seen[seed] = photo.name
                rows.append(_row(photo, image, index, seed))
            bar.set_postfix(rejects=len(rejects))
            bar.update()
            if len(rows) == settings.shard_size:
                _write(store, number, rows, rejects, identity)
                number, rows, rejects = number + 1, [], []
        if not rows and not number:
            reasons = ", ".join(sorted({row["reason"] for row in rejects})[:4]) or "no files"
            raise DatasetError(f"{source} has no image that can be used ({reasons})")
        if rows or rejects:
            _write(store, number, rows, rejects, identity)
    store.write("README.md", _card(settings, source, store).encode())
    write_index(store)
    return store


def prepared(content: bytes, settings: PhotoSettings) -> Image.Image:
    """An image file as an RGB image of `settings.image_size` squared.

    Raises:
        Rejected: for a file that is no image, is cut short, or has absurd dimensions.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, on what is odd in a file: either it opens or it does not
        try:
            image = open_lazily(content)
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise Rejected(f"{width} x {height} is too large")
            if min(width, height) < settings.min_side:
                raise Rejected(f"{width} x {height} is smaller than {settings.min_side}")
            if max(width, height) > settings.max_aspect_ratio * min(width, height):
                raise Rejected(f"{width} x {height} is too long and narrow")
            if image.format == "JPEG":
                image.draft("RGB", (2 * settings.image_size, 2 * settings.image_size))  # decodes large ones smaller
            image.load()  # the first frame of an animation
            image = _rgb(ImageOps.exif_transpose(image))
        except Rejected:
            raise
        except UnidentifiedImageError:
            raise Rejected("no image") from None
        except Image.DecompressionBombError:
            raise Rejected("too large") from None
        except Exception as error:  # decoders of two dozen formats fail in as many ways
            reason = "cut short" if "truncated" in str(error) else f"broken: {type(error).__name__}"
            raise Rejected(reason) from None
    size = (settings.image_size, settings.image_size)
    if settings.fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.LANCZOS, color="white")
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: 16 bits scaled down, alpha laid on white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise Rejected("broken: it has values that are no numbers")
        top = 1.0 if image.mode == "F" and values.max() <= 1 else 255.0 if values.max() <= 255 else 65535.0
        return Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(white, seen).convert("RGB")
    return image.convert("RGB")


def _open(source: str, settings: PhotoSettings) -> tuple[list[str], Iterator[Photo]]:
    """The names of all files, and the files in that order."""
    path = Path(source)
    if path.is_dir():
        if parquet := sorted(path.rglob("*.parquet")):
            return _open_parquet(parquet, settings)
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name not in _METADATA)
        captions = captions_of(path, settings.caption_column)
        named = {file.relative_to(path).as_posix(): file for file in files}
        return list(named), (Photo(name, file.read_bytes(), captions.get(name, "")) for name, file in named.items())
    if path.is_file() and path.suffix == ".parquet":
        return _open_parquet([path], settings)
    if path.exists():
        raise DatasetError(f"{source} is neither a folder nor Parquet: put the images into a folder")
    return _open_hub(source, settings)


def captions_of(folder: Path, column: str) -> dict[str, str]:
    """file_name -> caption, of an image folder's metadata."""
    found = next((folder / name for name in _METADATA if (folder / name).exists()), None)
    if found is None:
        return {}
    try:
        text = found.read_text(encoding="utf-8")
        rows: list[dict[str, Any]] = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if found.suffix == ".jsonl"
            else list(csv.DictReader(io.StringIO(text)))
        )
        return {str(row["file_name"]): str(row.get(column) or "") for row in rows}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DatasetError(f"{found} cannot be read ({error!r}): every row needs a file_name") from None


def _open_parquet(paths: list[Path], settings: PhotoSettings) -> tuple[list[str], Iterator[Photo]]:
    try:
        counts = [pq.read_metadata(path).num_rows for path in paths]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{paths[0].parent} has Parquet that cannot be read: {error}") from None
    names = [f"{path.name}/{row}" for path, count in zip(paths, counts, strict=True) for row in range(count)]
    columns = pq.read_schema(paths[0]).names
    if settings.image_column not in columns:
        raise DatasetError(f"{paths[0]} has no column {settings.image_column!r}; it has {', '.join(columns)}")
    wanted = [name for name in (settings.image_column, settings.caption_column) if name in columns]

    def read() -> Iterator[Photo]:
        for path in paths:
            row = 0
            for batch in pq.ParquetFile(path).iter_batches(64, columns=wanted):
                for item in batch.to_pylist():
                    content = _content_of(item[settings.image_column], f"{path}, row {row}")
                    yield Photo(f"{path.name}/{row}", content, str(item.get(settings.caption_column) or ""))
                    row += 1

    return names, read()


def _open_hub(name: str, settings: PhotoSettings) -> tuple[list[str], Iterator[Photo]]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split=settings.split)
    except Exception as error:  # of the Hub, of the network, of a data set's own files
        reason = " ".join(str(error).split())
        raise DatasetError(f"{name} is neither a folder here nor a data set of the Hub: {reason}") from None
    if settings.image_column not in rows.column_names:
        raise DatasetError(f"{name} has no column {settings.image_column!r}; it has {', '.join(rows.column_names)}")
    rows = rows.cast_column(settings.image_column, datasets.Image(decode=False))

    def read() -> Iterator[Photo]:
        for number, row in enumerate(rows):
            place = f"{settings.split}/{number}"
            content = _content_of(row[settings.image_column] or {}, f"{name}, row {place}")
            yield Photo(place, content, str(row.get(settings.caption_column) or ""))

    return [f"{settings.split}/{number}" for number in range(len(rows))], read()


def _content_of(item: Any, place: str) -> bytes:
    """The bytes of a row's image. A set from elsewhere names no file of this machine, and gets none.

    Raises:
        DatasetError: for a row with a path in the place of bytes, outside of the cache of `datasets`.
    """
    if isinstance(item, bytes):
        return item
    if not isinstance(item, dict):
        if isinstance(item, str) and item:
            raise DatasetError(f"{place} {_NAMES_A_FILE.format(item)}")
        return b""
    if isinstance(item.get("bytes"), bytes) and item["bytes"]:
        return bytes(item["bytes"])
    if not item.get("path"):
        return b""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    # Resolved first: a link inside of the cache, or `..`, leads out of it.
    caches = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE)
    path = Path(str(item["path"])).resolve()
    if not any(path.is_relative_to(Path(cache).resolve()) for cache in caches):
        raise DatasetError(f"{place} {_NAMES_A_FILE.format(item['path'])}")
    return path.read_bytes()


def _row(photo: Photo, image: Image.Image, index: int, seed: int) -> Row:
    return {
        "image": encoded(image, f"{index:06d}.png"),
        "prompt": photo.caption,
        "seed": seed,
        "index": index,
        "width": image.width,
        "height": image.height,
        "source": photo.name,
    }


def _reject(photo: Photo, index: int, seed: int, reason: str) -> Row:
    return {"image": None, "index": index, "attempt": 0, "prompt": photo.name, "seed": seed, "reason": reason}


def _write(store: Store, number: int, rows: list[Row], rejects: list[Row], identity: Row) -> None:
    if rejects:
        write_rejects(store, shard_name(number, "rejects"), rejects, identity)
    if rows:
        write_page(store, number, rows, rejects)
        write_shard(store, shard_name(number), rows, _COLUMNS, identity)


def _card(settings: PhotoSettings, source: str, store: Store) -> str:
    return render_card(
        "synth.dataset",
        "photographs_card.md",
        DatasetCardData(configs=[parquet_config("default", "data")]),
        num_kept=sum(num_rows(store, name) for name in store.names("data/train-*.parquet")),
        num_rejected=sum(num_rows(store, name) for name in store.names("rejects/train-*.parquet")),
        source=Path(source).name or source,
        settings=settings,
    )
