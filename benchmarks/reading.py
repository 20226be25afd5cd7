"""From a data set on disk to batches in memory: ours, `datasets` and webdataset, over the same images, in one run.

    python benchmarks/reading.py [--num-images 2000]

Each reader is a process of its own, so that its peak memory is its own. `ours` decodes images in the set's order,
as an encoding of latents does; `latents` is what a training then reads, in a shuffled order.
"""

import argparse
import io
import multiprocessing
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from synth.dataset.shards import encoded, shard_name, write_shard
from synth.dataset.store import Store
from synth.memory import peak_memory_bytes

_BATCH = 8
_SIDE = 256


def make(folder: Path, num_images: int) -> None:
    """The images as our shards, as a tar, and as latents."""
    draws = np.random.default_rng(0)
    store = Store(folder / "set")
    with tarfile.open(folder / "set.tar", "w") as tar:
        for number in range(-(-num_images // 250)):
            rows = []
            for index in range(number * 250, min(num_images, (number + 1) * 250)):
                small = draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                image = Image.fromarray(small).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
                cell = encoded(image, f"{index:06d}.png")
                rows.append({"image": cell, "prompt": "a", "seed": index, "index": index})
                entry = tarfile.TarInfo(f"{index:06d}.png")
                entry.size = len(cell["bytes"])
                tar.addfile(entry, io.BytesIO(cell["bytes"]))
            write_shard(
                store, shard_name(number), rows, {"image": bytes, "prompt": str, "seed": int, "index": int}, {}
            )
    np.save(folder / "latents.npy", draws.standard_normal((num_images, 4, _SIDE // 8, _SIDE // 8), np.float32))


def ours(folder: Path) -> Iterator[np.ndarray]:
    """uint8 (n, H, W, 3)."""
    from synth.dataset.image_dataset import ImageDataset

    images = ImageDataset(folder / "set")
    for start in range(0, len(images), _BATCH):
        yield np.stack([images.image(index) for index in range(start, min(start + _BATCH, len(images)))])


def with_datasets(folder: Path) -> Iterator[np.ndarray]:
    """The way of its documentation."""
    import datasets

    rows = datasets.load_dataset(str(folder / "set"), split="train", cache_dir=str(folder / "cache"))
    for batch in rows.with_format("numpy").iter(_BATCH):
        yield np.stack(list(batch["image"]))


def with_webdataset(folder: Path) -> Iterator[np.ndarray]:
    """The way of its documentation."""
    import webdataset

    rows = webdataset.WebDataset(str(folder / "set.tar"), shardshuffle=False).decode("rgb8").to_tuple("png")
    for (batch,) in rows.batched(_BATCH):
        yield batch


def latents(folder: Path) -> Iterator[np.ndarray]:
    """float32 (n, C, h, w), shuffled."""
    kept = np.load(folder / "latents.npy", mmap_mode="r")
    order = np.random.default_rng(0).permutation(len(kept))
    for start in range(0, len(kept), _BATCH):
        yield kept[np.sort(order[start : start + _BATCH])]


_READERS: dict[str, Callable[[Path], Iterator[np.ndarray]]] = {
    "ours": ours, "datasets": with_datasets, "webdataset": with_webdataset, "latents": latents,
}  # fmt: skip


def measure(name: str, folder: Path, results: Any) -> None:
    """One reader: images a second after its first batch, and the peak memory that reading added."""
    batches = _READERS[name](folder)
    next(batches)
    before = peak_memory_bytes("cpu")
    started, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch)
    seconds = time.perf_counter() - started
    added = peak_memory_bytes("cpu") - before
    results.put((name, count / seconds, added / 2**20))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=2000)
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), args.num_images)
        rates: dict[str, list[float]] = {}
        for _ in range(3):
            for reader in _READERS:
                results = spawn.Queue()
                process = spawn.Process(target=measure, args=(reader, Path(name), results))
                process.start()
                _, rate, added = results.get()
                process.join()
                rates.setdefault(reader, []).append(rate)
                print(f"{reader:11} {rate:8.0f} images a second, {added:6.1f} MiB added to peak memory", flush=True)
    medians = {reader: float(np.median(values)) for reader, values in rates.items()}
    for reader in ("datasets", "webdataset"):
        print(f"ours / {reader}  {medians['ours'] / medians[reader]:.2f}")


if __name__ == "__main__":
    main()
