"""Imports photographs into a dataset of the same shards as `synthesize` writes, so that training treats both alike.

A folder may hold anything: images rotated by EXIF, CMYK, 16 bits, alpha, animations, truncated files, files that are
not images. Each becomes an RGB square, or is rejected with a reason; none stops the import.
"""

import hashlib
import warnings
from pathlib import Path

from huggingface_hub import DatasetCardData
from PIL import Image, ImageOps
from tqdm import tqdm

from synth.dataset.gallery import write_index, write_page
from synth.dataset.photo_sources import Photo, open_photos
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
from synth.images.reader import (
    ForeignFormatError,
    ImageError,
    NotAnImageError,
    TooLargeError,
    open_lazily,
    read_image,
)
from synth.settings import PhotoSettings
from synth.templates import parquet_config, render_card

_COLUMNS: dict[str, type] = {
    "image": bytes, "prompt": str, "seed": int, "index": int, "width": int, "height": int, "source": str,
}  # fmt: skip


class Rejected(Exception):
    """An image that cannot be used; the message is the reason."""


def import_photos(source: str, settings: PhotoSettings, out: str | Path, progress: bool = True) -> Store:
    """Turn photographs into a dataset at `out`. An interrupted import resumes.

    Args:
        source: a folder (captions in `metadata.jsonl` or `.csv`), a Parquet file, a folder of those, or the Hub id of
            a dataset.
        settings: sizes, rules and columns.
        out: the dataset's folder, or a URL that fsspec knows.
        progress: whether to show a bar.

    Returns:
        The store at `out`.

    Raises:
        DatasetError: if there is no such source, it has no usable image, or `out` holds another dataset.
    """
    store = Store(out)
    names, photos = open_photos(source, settings)
    # Existing imports have a fingerprint of names joined by these two characters, not by a line feed.
    identity = {**settings.model_dump(mode="json"), "photos": hashlib.sha256("\\n".join(names).encode()).hexdigest()}
    shards = store.names("data/train-*.parquet")
    for name in shards:
        refuse_another(store, name, identity)
    full = [name for name in shards if num_rows(store, name) == settings.shard_size]
    if len(full) < len(shards):
        return store  # only the last shard is short, so the import was finished

    # What an interrupted import has decided already: the seed, a hash of the file, is that of its first copy.
    seen = {row["seed"]: row["source"] for name in full for row in read_rows(store, name, ["seed", "source"])}
    rejected = {
        row["prompt"] for name in store.names("rejects/train-*.parquet") for row in read_rows(store, name, ["prompt"])
    }
    done = rejected | set(seen.values())

    number = len(full)
    rows: list[Row] = []
    rejects: list[Row] = []
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

        # The last shard is short, or empty but for its rejects.
        if not rows and not number:
            reasons = ", ".join(sorted({row["reason"] for row in rejects})[:4]) or "no files"
            raise DatasetError(f"{source} has no image that can be used ({reasons})")
        if rows or rejects:
            _write(store, number, rows, rejects, identity)
    store.write("README.md", _card(settings, source, store).encode())
    write_index(store)
    return store


def prepared(content: bytes, settings: PhotoSettings) -> Image.Image:
    """Turn an image file into an RGB image of `settings.image_size` squared.

    Raises:
        Rejected: if the file is not an image, is truncated, or has dimensions that the settings refuse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd files, but all that counts is whether one opens
        try:
            with open_lazily(content) as image:
                width, height = image.size
                if min(width, height) < settings.min_side:
                    raise Rejected(f"{width} x {height} is smaller than {settings.min_side}")
                if max(width, height) > settings.max_aspect_ratio * min(width, height):
                    raise Rejected(f"{width} x {height} is too long and narrow")
                if image.format in ("JPEG", "MPO"):
                    image.draft(
                        "RGB", (2 * settings.image_size, 2 * settings.image_size)
                    )  # decodes large ones smaller
                photo = read_image(image)
        except ForeignFormatError as error:
            raise Rejected(str(error)) from None
        except NotAnImageError:
            raise Rejected("not an image") from None
        except TooLargeError:
            raise Rejected("too large") from None
        except ImageError as error:
            raise Rejected("truncated" if "truncated" in str(error) else f"broken: {error}") from None
    # In sRGB, as the teacher knows colors, and without EXIF, which tells places.
    image = Image.fromarray(photo.on_ground())
    size = (settings.image_size, settings.image_size)
    if settings.fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.LANCZOS, color="white")
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


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
