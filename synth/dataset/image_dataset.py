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
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synth.cpu import num_threads
from synth.dataset.prompts import Template
from synth.dataset.shards import (
    ShardImages,
    column_names,
    identity_of,
    num_rows,
    read_rows,
    reading_image,
    refuse_another,
    shard_names,
)
from synth.dataset.store import Store
from synth.errors import DatasetError, RecipeError
from synth.images.encoding import decode_rgb
from synth.settings import SceneSettings

_MAX_DECODERS = 8


class ImageDataset:
    """A dataset folder, read-only.

    One shard is in memory at a time, so reading images in order is fast.

    Attributes:
        names: one per image; of a photograph the file, or the row of a table.
        prompts: one per image.
        slots: one per image, name -> value.
        pixels_fingerprint: hash of what the pixels depend on, the number of images, and their seeds.
        fingerprint: hash of all that a training reads: pixels, prompts and slots. It is that of the pixels where the
            texts follow from the same: in a painted set as it was painted, and in photographs without captions.

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
        self._images = ShardImages(self._store)

        # Read everything but the images, and check that no image is missing.
        columns = column_names(self._store, names[0])
        slots = sorted(name for name in columns if name.startswith("slot_"))
        wanted = ["index", "prompt", "seed", *slots, *(["source"] if "source" in columns else [])]
        rows = [row for name in names for row in read_rows(self._store, name, wanted)]
        if [row["index"] for row in rows] != list(range(len(rows))):
            raise DatasetError(f"{folder} has a missing or truncated shard: run `distillery synthesize` again")
        self.prompts: list[str] = [row["prompt"] for row in rows]
        self.slots: list[dict[str, str]] = [{name.removeprefix("slot_"): row[name] for name in slots} for row in rows]
        self.names: list[str] = [row.get("source", f"scene {row['index']}") for row in rows]
        described: list[Any] = [identity, len(rows), [row["seed"] for row in rows]]
        self.pixels_fingerprint = self.fingerprint = _digest(described)
        if not self._texts_follow(identity, described[2]):
            self.fingerprint = _digest([*described, self.prompts, self.slots])

    def __len__(self) -> int:
        return len(self.prompts)

    def first(self, num: int) -> "ImageDataset":
        """Return the first `num` images as a dataset, with a fingerprint of its own."""
        return self._some(range(min(num, len(self))), str(num))

    def without(self, left_out: Collection[int]) -> "ImageDataset":
        """Return the images but those with some indices, as a dataset with a fingerprint of its own."""
        return self._some([i for i in range(len(self)) if i not in left_out], f"without-{_digest(sorted(left_out))}")

    def _some(self, indices: Sequence[int], what: str) -> "ImageDataset":
        some = copy(self)
        some._images = copy(self._images)  # which shard is open is each dataset's own matter
        some._places = [self._places[index] for index in indices]
        some.names = [self.names[index] for index in indices]
        some.prompts = [self.prompts[index] for index in indices]
        some.slots = [self.slots[index] for index in indices]
        some.fingerprint = f"{self.fingerprint}-{what}"
        some.pixels_fingerprint = f"{self.pixels_fingerprint}-{what}"
        return some

    def _texts_follow(self, identity: Mapping[str, Any], seeds: Sequence[int]) -> bool:
        """Return whether prompts and slots follow from what the pixels depend on, for they were not changed since."""
        if "template" not in identity:
            return not any(self.prompts)
        try:
            known = {name: identity[name] for name in ("template", "slots", "seed")}
            template = Template(SceneSettings(count=1, **known))
            for index, (seed, prompt, slots) in enumerate(zip(seeds, self.prompts, self.slots, strict=True)):
                scene = template.scene(index, template.attempt_of(index, seed))
                if (prompt, slots) != (scene.prompt, scene.slots):
                    return False
        except (KeyError, ValueError, RecipeError):  # not what this project paints from
            return False
        return True

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return an image, uint8 (H, W, 3).

        Raises:
            DatasetError: if its shard is damaged.
        """
        return self._decode(index, self._images.content(*self._places[index]))

    def batches(self, indices: Sequence[int], size: int) -> Iterator[list[NDArray[np.uint8]]]:
        """Yield images in batches, uint8 (H, W, 3) each, while threads decode the next one.

        Args:
            indices: of the images; in their order reading is fast.
            size: of a batch; the last may be smaller.

        Raises:
            DatasetError: if a shard is damaged.
        """
        ahead: deque[list[Future[NDArray[np.uint8]]]] = deque()
        for start in range(0, len(indices), size):
            chosen = indices[start : start + size]
            contents = [self._images.content(*self._places[index]) for index in chosen]
            ahead.append([_decoders().submit(self._decode, *each) for each in zip(chosen, contents, strict=True)])
            if len(ahead) > 1:
                yield [image.result() for image in ahead.popleft()]
        for last in ahead:
            yield [image.result() for image in last]

    def _decode(self, index: int, content: bytes) -> NDArray[np.uint8]:
        with reading_image(self._store, *self._places[index]):
            return np.array(decode_rgb(content))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self.image(index) for index in range(len(self)))


@cache
def _decoders() -> ThreadPoolExecutor:
    """The threads that decode images: Pillow lets others run meanwhile."""
    return ThreadPoolExecutor(min(num_threads(), _MAX_DECODERS), "decoding")


def _digest(values: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
