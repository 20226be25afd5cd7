"""A dataset of images: Parquet shards that `datasets.load_dataset(folder)` opens without this project.

    README.md                      the dataset card
    data/train-00000.parquet       scenes 0 to shard_size - 1, and so on
    rejects/train-00000.parquet    the images painted for that shard and rejected
    preview.html, preview/         a gallery, where a person vetoes images; it saves exclude*.txt
    exclude*.txt                   seeds of vetoed images, one a line

`synth.dataset.building` writes painted images, `synth.dataset.photographs` photographs; this module reads both.
"""

import hashlib
import json
from collections.abc import Iterator
from copy import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from synth.dataset.shards import (
    column_names,
    identity_of,
    num_rows,
    read_columns,
    read_rows,
    refuse_another,
    shard_names,
)
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.images import decode_rgb
from synth.state import reading


class ImageDataset:
    """A dataset folder, read-only.

    One shard is in memory at a time, so reading images in order is fast.

    Attributes:
        prompts: one per image.
        slots: one per image, name -> value.
        fingerprint: hash of what the pixels depend on, the number of images, and their seeds.

    Raises:
        DatasetError: if the folder has no shard, a broken one, one of another dataset, or lacks one.
    """

    def __init__(self, folder: str | Path) -> None:
        self._store = Store(folder)
        names = shard_names(self._store)
        if not names:
            raise DatasetError(f"no dataset in {folder}: run `distillery synthesize` first")
        identity = identity_of(self._store, names[0])
        self._places: list[tuple[str, int]] = []  # of each image: its shard, and its row there
        for name in names:
            refuse_another(self._store, name, identity)
            self._places += [(name, row) for row in range(num_rows(self._store, name))]
        self._open: str | None = None

        # Read everything but the images, and check that no image is missing.
        columns = column_names(self._store, names[0])
        slots = sorted(name for name in columns if name.startswith("slot_"))
        wanted = ["index", "prompt", "seed", *slots]
        rows = [row for name in names for row in read_rows(self._store, name, wanted)]
        if [row["index"] for row in rows] != list(range(len(rows))):
            raise DatasetError(f"{folder} has a missing or truncated shard: run `distillery synthesize` again")
        self.prompts: list[str] = [row["prompt"] for row in rows]
        self.slots: list[dict[str, str]] = [{name.removeprefix("slot_"): row[name] for name in slots} for row in rows]
        described = json.dumps([identity, len(rows), [row["seed"] for row in rows]], sort_keys=True)
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.prompts)

    def first(self, num: int) -> "ImageDataset":
        """Return the first `num` images as a dataset, with a fingerprint of its own."""
        few = copy(self)
        few._places = self._places[:num]
        few.prompts = self.prompts[:num]
        few.slots = self.slots[:num]
        few.fingerprint = f"{self.fingerprint}-{num}"
        return few

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return an image, uint8 (H, W, 3).

        Raises:
            DatasetError: if its shard is damaged.
        """
        name, row = self._places[index]
        if name != self._open:  # one shard at a time: a dataset may be larger than memory
            self._encoded: pa.Array = read_columns(self._store, name, ["image"])["image"].combine_chunks()
            self._open = name
        with reading(f"{self._store}/{name}, row {row}", DatasetError, "delete the shard, and it will be made again"):
            content = self._encoded.field("bytes")[row].as_py()  # never its path, which may name any file
            return np.array(decode_rgb(content))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self.image(index) for index in range(len(self)))
