"""Small photographs on disk, and what an import made of them."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from synth.dataset.image_dataset import ImageDataset
from synth.dataset.importing import Imported, import_photos
from synth.settings import PhotoSettings

SMALL = PhotoSettings(image_size=8, min_side=4, shard_size=3)


def png(name: str) -> bytes:
    """A PNG whose pixels follow from the name."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        return np.array(image.convert("RGB"))


def write_photos(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(name))
    return folder


def write_large_photos(folder: Path, *names: str) -> Path:
    """As `write_photos`, of a size that the command takes."""
    for path in (write_photos(folder, name) / name for name in names):
        Image.fromarray(np.kron(pixels(path.read_bytes()), np.ones((8, 8, 1), np.uint8))).save(path)
    return folder


def imported(source: object, out: Path, **settings: Any) -> Imported:
    return import_photos(str(source), SMALL.model_copy(update=settings), out, progress=False)


def captions(out: Path) -> dict[str, str]:
    """Name -> caption."""
    images = ImageDataset(out)
    return dict(zip(images.names, images.prompts, strict=True))


def rejects(out: Path) -> dict[str, str]:
    """Name -> reason."""
    rows = [row for path in sorted((out / "rejects").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {row["prompt"]: row["reason"] for row in rows}


def files(out: Path) -> dict[str, bytes]:
    """All that belongs to a set but where it came from."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "import.json" and not path.name.startswith("exclude")
    }
