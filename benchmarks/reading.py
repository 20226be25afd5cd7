"""From a dataset on disk to batches in memory: ours, `datasets` and webdataset, over the same images, in one run.

    python benchmarks/reading.py [--num-images 2000]

Each reader runs in its own process, for a peak memory of its own. `ours` decodes images in the dataset's order, as
the encoding of latents does; `latents` reads what a training then reads, in a shuffled order.
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

from distill.training.memory import peak_memory_bytes
from synth.dataset.shards import encoded, shard_name, write_shard
from synth.dataset.store import Store

_BATCH = 8
_SIDE = 256


def make(folder: Path, num_images: int) -> None:
    """Write the images as our shards, as a tar, and as latents."""
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
    """Decode the images in order: uint8 (n, H, W, 3)."""
    from synth.dataset.image_dataset import ImageDataset

    images = ImageDataset(folder / "set")
    for start in range(0, len(images), _BATCH):
        yield np.stack([images.image(index) for index in range(start, min(start + _BATCH, len(images)))])


def with_datasets(folder: Path) -> Iterator[np.ndarray]:
    """Read as the documentation of `datasets` does."""
    import datasets

    rows = datasets.load_dataset(str(folder / "set"), split="train", cache_dir=str(folder / "cache"))
    for batch in rows.with_format("numpy").iter(_BATCH):
        yield np.stack(list(batch["image"]))


def with_webdataset(folder: Path) -> Iterator[np.ndarray]:
    """Read as the documentation of webdataset does."""
    import webdataset

    rows = webdataset.WebDataset(str(folder / "set.tar"), shardshuffle=False).decode("rgb8").to_tuple("png")
    for (batch,) in rows.batched(_BATCH):
        yield batch


def latents(folder: Path) -> Iterator[np.ndarray]:
    """Read latents in a shuffled order: float32 (n, C, h, w)."""
    stored = np.load(folder / "latents.npy", mmap_mode="r")
    order = np.random.default_rng(0).permutation(len(stored))
    for start in range(0, len(stored), _BATCH):
        yield stored[np.sort(order[start : start + _BATCH])]


_READERS: dict[str, Callable[[Path], Iterator[np.ndarray]]] = {
    "ours": ours, "datasets": with_datasets, "webdataset": with_webdataset, "latents": latents,
}  # fmt: skip


def measure(name: str, folder: Path, results: Any) -> None:
    """Run one reader: images a second after the first batch, and the MiB that reading added to peak memory."""
    batches = _READERS[name](folder)
    next(batches)
    before = peak_memory_bytes("cpu")
    count = 0
    started = time.perf_counter()
    for batch in batches:
        count += len(batch)
    seconds = time.perf_counter() - started
    added = peak_memory_bytes("cpu") - before
    results.put((name, count / seconds, added / 2**20))


def main() -> None:
    """Run the command line."""
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
