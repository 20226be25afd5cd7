"""A painted data set: Parquet shards that `datasets.load_dataset(folder)` opens with nothing of ours installed.

    README.md                      the card
    data/train-00000.parquet       scenes 0 to shard_size - 1, and so on
    rejects/train-00000.parquet    what was painted for that shard and not kept
    preview.html, preview/         a gallery; what a person vetoes there becomes exclude.txt
    exclude*.txt                   seeds of images that must not be in the set, one a line

`synth.dataset.building` writes one, `synth.dataset.photographs` writes one of photographs; this module reads both.
"""

import hashlib
import json
from collections.abc import Iterator
from copy import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from synth.dataset.shards import column_names, identity_of, num_rows, read_columns, read_rows, refuse_another
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.images import decode_rgb
from synth.state import reading


class ImageDataset:
    """A data set folder, read-only. An image is read from its shard when it is asked for: read them in order.

    Attributes:
        prompts: of each image.
        slots: of each image, name to value.
        fingerprint: of what the pixels depend on, of how many there are, and of their seeds.

    Raises:
        DatasetError: if there is no shard in the folder, a broken one, one of another set, or one is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self._store = Store(folder)
        names = self._store.names("data/train-*.parquet")
        if not names:
            raise DatasetError(f"no data set in {folder}: run `distillery synthesize` first")
        identity = identity_of(self._store, names[0])
        self._places: list[tuple[str, int]] = []
        for name in names:
            refuse_another(self._store, name, identity)
            self._places += [(name, row) for row in range(num_rows(self._store, name))]
        self._open: str | None = None
        columns = column_names(self._store, names[0])
        slots = sorted(name for name in columns if name.startswith("slot_"))
        wanted = ["index", "prompt", "seed", *slots]
        rows = [row for name in names for row in read_rows(self._store, name, wanted)]
        if [row["index"] for row in rows] != list(range(len(rows))):
            raise DatasetError(f"{folder} has a shard missing or cut short: run `distillery synthesize` again")
        self.prompts: list[str] = [row["prompt"] for row in rows]
        self.slots: list[dict[str, str]] = [{name.removeprefix("slot_"): row[name] for name in slots} for row in rows]
        described = json.dumps([identity, len(rows), [row["seed"] for row in rows]], sort_keys=True)
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.prompts)

    def first(self, num: int) -> "ImageDataset":
        """The same set, as if it ended after `num` images."""
        few = copy(self)
        few._places, few.prompts, few.slots = self._places[:num], self.prompts[:num], self.slots[:num]
        few.fingerprint = f"{self.fingerprint}-{num}"
        return few

    def image(self, index: int) -> NDArray[np.uint8]:
        """uint8 (H, W, 3)."""
        name, row = self._places[index]
        if name != self._open:  # one shard at a time: a set may be larger than memory
            self._encoded: pa.Array = read_columns(self._store, name, ["image"])["image"].combine_chunks()
            self._open = name
        with reading(f"{self._store}/{name}, row {row}", DatasetError, "delete the shard, and it is made again"):
            content = self._encoded.field("bytes")[row].as_py()  # never its path, which may be any file's
            return np.array(decode_rgb(content))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self.image(index) for index in range(len(self)))
