"""From a dataset on disk to batches in memory: ours, `datasets` and webdataset, over the same images, in one run.

    python benchmarks/reading.py [--num-images 2000]

Each reader runs in its own process, for a peak memory of its own, with one worker and with as many as there are
cores, by its own means: ours and those of `datasets` are threads, those of webdataset are processes of PyTorch's
DataLoader. `ours` decodes images in the dataset's order, as the encoding of latents does; `latents` reads what a
training then reads, in a shuffled order.
"""

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from processes import in_own_process

from distill.training.memory import peak_memory_bytes
from synth.cpu import num_threads
from synth.dataset.shards import encoded, shard_name, write_shard
from synth.dataset.store import Store

_BATCH = 8
_SIDE = 256


def make(folder: Path, num_images: int, num_tars: int) -> None:
    """Write the images as our shards, as tars, and as latents."""
    draws = np.random.default_rng(0)
    store = Store(folder / "set")
    with ExitStack() as opened:
        tars = [opened.enter_context(tarfile.open(folder / f"set-{number}.tar", "w")) for number in range(num_tars)]
        for number in range(-(-num_images // 250)):
            rows = []
            for index in range(number * 250, min(num_images, (number + 1) * 250)):
                small = draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                image = Image.fromarray(small).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
                cell = encoded(image, f"{index:06d}.png")
                rows.append({"image": cell, "prompt": "a", "seed": index, "index": index})
                entry = tarfile.TarInfo(f"{index:06d}.png")
                entry.size = len(cell["bytes"])
                tars[index % num_tars].addfile(entry, io.BytesIO(cell["bytes"]))
            write_shard(
                store, shard_name(number), rows, {"image": bytes, "prompt": str, "seed": int, "index": int}, {}
            )
    np.save(folder / "latents.npy", draws.standard_normal((num_images, 4, _SIDE // 8, _SIDE // 8), np.float32))


def ours(folder: Path, workers: int) -> Iterator[np.ndarray]:
    """Decode the images in order: uint8 (n, H, W, 3)."""
    from synth.dataset.image_dataset import ImageDataset

    images = ImageDataset(folder / "set")
    if workers == 1:
        for start in range(0, len(images), _BATCH):
            yield np.stack([images.image(index) for index in range(start, min(start + _BATCH, len(images)))])
    else:
        yield from map(np.stack, images.batches(range(len(images)), _BATCH))


def with_datasets(folder: Path, workers: int) -> Iterator[np.ndarray]:
    """Read as the documentation of `datasets` does."""
    import datasets

    rows = datasets.load_dataset(str(folder / "set"), split="train", cache_dir=str(folder / "cache"))
    if workers == 1:
        for batch in rows.with_format("numpy").iter(_BATCH):
            yield np.stack(list(batch["image"]))
    else:
        streamed = rows.to_iterable_dataset().decode(num_threads=workers)
        for batch in streamed.batch(_BATCH):
            yield np.stack([np.asarray(image) for image in batch["image"]])


def with_webdataset(folder: Path, workers: int) -> Iterator[np.ndarray]:
    """Read as the documentation of webdataset does; with several processes, each has a tar of its own."""
    import webdataset

    urls = [str(path) for path in sorted(folder.glob("set-*.tar"))]
    rows = webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("png").batched(_BATCH)
    for (batch,) in rows if workers == 1 else webdataset.WebLoader(rows, batch_size=None, num_workers=workers):
        yield np.asarray(batch)


def latents(folder: Path, workers: int) -> Iterator[np.ndarray]:
    """Read latents in a shuffled order: float32 (n, C, h, w). One worker is all that it takes."""
    stored = np.load(folder / "latents.npy", mmap_mode="r")
    order = np.random.default_rng(0).permutation(len(stored))
    for start in range(0, len(stored), _BATCH):
        yield stored[np.sort(order[start : start + _BATCH])]


_READERS: dict[str, Callable[[Path, int], Iterator[np.ndarray]]] = {
    "ours": ours, "datasets": with_datasets, "webdataset": with_webdataset, "latents": latents,
}  # fmt: skip


def measure(name: str, workers: int, folder: Path) -> tuple[float, float]:
    """Run one reader: images a second after the first batch, and the MiB that reading added to peak memory.

    The memory is this process's: what webdataset's own processes take comes on top.
    """
    batches = _READERS[name](folder, workers)
    next(batches)
    before = peak_memory_bytes("cpu")
    count = 0
    started = time.perf_counter()
    for batch in batches:
        count += len(batch)
    seconds = time.perf_counter() - started
    added = peak_memory_bytes("cpu") - before
    return count / seconds, added / 2**20


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    work = [(reader, workers) for workers in sorted({1, num_threads()}) for reader in _READERS]
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), args.num_images, num_threads())
        rates: dict[tuple[str, int], list[float]] = {}
        for _ in range(args.rounds):
            for reader, workers in work:
                rate, added = in_own_process(partial(measure, reader, workers, Path(name)))
                rates.setdefault((reader, workers), []).append(rate)
                line = f"{reader:11} {workers} workers {rate:8.0f} images a second"
                print(f"{line}, {added:6.1f} MiB added to peak memory", flush=True)
    medians = {key: float(np.median(values)) for key, values in rates.items()}
    for peer, workers in work:
        if peer in ("datasets", "webdataset"):
            print(f"ours / {peer}, {workers} workers  {medians['ours', workers] / medians[peer, workers]:.2f}")


if __name__ == "__main__":
    main()
