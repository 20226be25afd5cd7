"""Imports photographs into a dataset of the same shards as `synthesize` writes, so that training treats both alike.

A set is what its source holds now: the photographs, their captions and the exclude lists alone determine its rows,
and no earlier import does. So a second import finds every caption that was corrected, and every file that was
replaced, added or removed; it writes only the shards that differ, and encodes no image again. No single file stops
it.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from synth.dataset.card import is_unfinished, refuse_foreign_files, write_photographs_card, write_unfinished_card
from synth.dataset.filters import excluded_seeds
from synth.dataset.former import Former
from synth.dataset.gallery import PHOTOGRAPHS, page_name, write_index, write_page
from synth.dataset.photographs import Rejected, prepared
from synth.dataset.shards import Row, encoded, shard_name, write_rejects, write_shard
from synth.dataset.sources.captions import MAX_CAPTION
from synth.dataset.sources.opening import open_photos
from synth.dataset.sources.photo import Photo, PhotoSource
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.settings import PhotoSettings

_COLUMNS: dict[str, type] = {
    "image": bytes, "prompt": str, "seed": int, "index": int, "width": int, "height": int, "source": str,
}  # fmt: skip
_PIXELS = ("image_size", "fit", "min_side", "max_aspect_ratio", "shard_size")
_VERSION = 2  # of the way from a file to its pixels: sets of another one are not mixed
_SHOWN = 2  # captions in the summary


@dataclass
class Imported:
    """What an import made.

    Attributes:
        store: of the set.
        num_images: in the set.
        num_rejected: files and rows that could not be used.
        num_captioned: images with a caption.
        captions: the first of them: name and caption.
        num_new: images that the set did not hold before.
        num_removed: images that it held before.
        num_recaptioned: images that had another caption before.
        notes: what the user should know of the captions, a line each.
    """

    store: Store
    num_images: int = 0
    num_rejected: int = 0
    num_captioned: int = 0
    captions: list[tuple[str, str]] = field(default_factory=list)
    num_new: int = 0
    num_removed: int = 0
    num_recaptioned: int = 0
    notes: list[str] = field(default_factory=list)


def import_photos(source: str, settings: PhotoSettings, out: str | Path, progress: bool = True) -> Imported:
    """Turn photographs into a dataset at `out`, or bring one up to date. An interrupted import resumes.

    Args:
        source: what `open_photos` opens.
        settings: sizes, rules and columns.
        out: the dataset's folder, or a URL that fsspec knows.
        progress: whether to show a bar.

    Returns:
        The store at `out`, and what was done.

    Raises:
        DatasetError: if there is no such source, it has no usable image, or `out` holds another dataset or files that
            are not a dataset's.
    """
    store = Store(out)
    folder = Path(out).resolve() if store.is_local else None
    if folder == Path(source).resolve():
        raise DatasetError(f"{out} is the folder of the photographs themselves: choose another --out")
    photos = open_photos(source, settings, folder)
    identity = {**settings.model_dump(mode="json", include=set(_PIXELS)), "import_version": _VERSION}
    former = Former(store, identity)
    refuse_foreign_files(store)
    _refuse_another_source(store, photos, former)
    excluded = excluded_seeds(store)

    made = Imported(store)
    writer = _Writer(store, settings, identity, former, photos.place, source)
    first_copy: dict[int, tuple[str, str]] = {}  # hash of a file -> its name and caption
    with tqdm(total=len(photos), unit="file", desc="importing", disable=not progress) as bar:
        for photo in photos:
            seed = content_hash(photo.content)
            try:
                _check(photo, seed, first_copy, excluded)
                # What the set holds already was good, and need not be decoded to be known.
                image = None if seed in former else encoded(prepared(photo.content, settings), "")
            except Rejected as error:
                writer.reject(photo.name, seed, str(error))
                made.num_rejected += 1
            else:
                first_copy[seed] = photo.name, photo.caption
                writer.keep(photo, seed, image)
                _count(made, photo, former.prompt(seed))
            bar.set_postfix(rejects=made.num_rejected)
            bar.update()
    if not made.num_images:
        raise DatasetError(f"{source} has no image that can be used ({writer.reasons or 'no files'})")
    writer.finish()
    made.num_removed = len(former) - (made.num_images - made.num_new)
    made.notes = photos.notes
    return made


def content_hash(content: bytes) -> int:
    """Return what stands for a seed in photographs: 56 bits of a hash of the file."""
    return int.from_bytes(hashlib.sha256(content).digest()[:7])


def _check(photo: Photo, seed: int, first_copy: dict[int, tuple[str, str]], excluded: frozenset[int]) -> None:
    """Raise Rejected for a photograph that is known to be of no use before it is opened."""
    if photo.problem:
        raise Rejected(photo.problem)
    if seed in excluded:
        raise Rejected("vetoed in the gallery")
    if seed in first_copy:
        name, caption = first_copy[seed]
        lost = "" if photo.caption in ("", caption) else f", whose caption is {caption!r} and not {photo.caption!r}"
        raise Rejected(f"the same image as {name}{lost}")
    if len(photo.caption) > MAX_CAPTION:
        raise Rejected(f"its caption has {len(photo.caption)} characters, more than {MAX_CAPTION}")


def _count(made: Imported, photo: Photo, before: str | None) -> None:
    made.num_images += 1
    made.num_new += before is None
    made.num_recaptioned += before is not None and before != photo.caption
    if photo.caption:
        made.num_captioned += 1
        made.captions += [(photo.name, photo.caption)][: _SHOWN - len(made.captions)]


def _refuse_another_source(store: Store, photos: PhotoSource, former: Former) -> None:
    """Refuse to replace a set by the photographs of another folder: its own ones would be gone.

    A folder that was moved is known by its photographs: one that the set holds is enough.

    Raises:
        DatasetError: if the set was made of another source.
    """
    if not len(former) or former.place == _digest(photos.place):
        return
    if not any(content_hash(photo.content) in former for photo in photos):
        raise DatasetError(
            f"{store} holds {len(former)} photographs, none of which is in this source: choose another --out, "
            "or import a folder that holds all of them"
        )


def _digest(place: str) -> str:
    """Return what a set keeps of its source: a published set must not tell folders of this machine."""
    return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]


class _Writer:
    """Writes what an import keeps and rejects, shard by shard, where it differs from what is there."""

    def __init__(
        self, store: Store, settings: PhotoSettings, identity: Row, former: Former, place: str, source: str
    ) -> None:
        self._store, self._settings, self._identity, self._former = store, settings, identity, former
        self._place, self._source = place, source
        self._number = 0
        self._rows: list[Row] = []
        self._rejects: list[Row] = []
        self._reasons: dict[str, None] = {}
        self._changed = False

    @property
    def reasons(self) -> str:
        """The first reasons of rejects."""
        return ", ".join(sorted(list(self._reasons)[:4]))

    def keep(self, photo: Photo, seed: int, image: dict[str, object] | None) -> None:
        """Add a photograph; without an image, it is one that the set held before."""
        index = self._number * self._settings.shard_size + len(self._rows)
        side = self._settings.image_size
        self._rows.append(
            {
                "image": image,
                "prompt": photo.caption,
                "seed": seed,
                "index": index,
                "width": side,
                "height": side,
                "source": photo.name,
            }
        )
        if len(self._rows) == self._settings.shard_size:
            self._write()

    def reject(self, name: str, seed: int, reason: str) -> None:
        """Add a reject."""
        index = self._number * self._settings.shard_size + len(self._rows)
        self._reasons.setdefault(reason)
        self._rejects.append(
            {"image": None, "index": index, "attempt": 0, "prompt": name, "seed": seed, "reason": reason}
        )

    def finish(self) -> None:
        """Write the last shard, remove those that are too many, and write the card and the gallery's index."""
        if self._rows or self._rejects:
            self._write()
        for name in reversed(self._former.from_number(self._number)):
            self._store.remove(name)
            self._changed = True
        if self._changed or is_unfinished(self._store):
            write_photographs_card(self._store, self._settings, Path(self._source).name or self._source)
            write_index(self._store, PHOTOGRAPHS)
        self._store.write("import.json", json.dumps({"source": _digest(self._place)}).encode())

    def _write(self) -> None:
        """Write the shard, its rejects and its page, unless they are there already."""
        number, rows, rejects = self._number, self._rows, self._rejects
        same_rows = self._former.has_rows(number, rows)
        same_rejects = self._former.has_rejects(number, rejects)
        if not (same_rows and same_rejects):
            self._changed = True
            write_unfinished_card(self._store)
            self._replace(number, rows, rejects, same_rows)
        self._number, self._rows, self._rejects = number + 1, [], []

    def _replace(self, number: int, rows: list[Row], rejects: list[Row], same_rows: bool) -> None:
        for row in rows:
            image = row["image"] or self._former.image(row["seed"])
            row["image"] = {"bytes": image["bytes"], "path": f"{row['index']:06d}.png"}
        if rejects:
            write_rejects(self._store, shard_name(number, "rejects"), rejects, self._identity)
        else:
            self._store.remove(shard_name(number, "rejects"))
        if not rows:
            self._store.remove(shard_name(number))
            self._store.remove(page_name(number))
        else:
            write_page(self._store, number, rows, rejects, PHOTOGRAPHS)
            if not same_rows:
                self._former.retain(number)
                write_shard(self._store, shard_name(number), rows, _COLUMNS, self._identity)
