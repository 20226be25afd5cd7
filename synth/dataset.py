"""Painted scenes on disk: Parquet shards that `datasets.load_dataset(folder)` opens with nothing of ours installed.

    folder/README.md                    the card
    folder/data/train-00000.parquet     scenes 0 to shard_size - 1, and so on

A shard is written whole or not at all. What is in it follows from the fingerprint (teacher, template, seed, size,
steps, batch size, ...) and its number, so a folder can be continued, or grown, by painting what is missing.
"""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from synth.errors import DatasetError
from synth.generate import completed, generate
from synth.prompts import Scene, Template
from synth.settings import SceneSettings
from synth.teacher import UNKNOWN_LICENCE, Teacher

_KEY = b"distillery"  # of the schema's metadata that holds what the pixels depend on
_ROW_GROUP = 100  # images: the Hub's viewer reads a group at a time, and gives up beyond 300 MB
_TEXT, _NUMBER, _IMAGE = (
    {"dtype": "string", "_type": "Value"},
    {"dtype": "int64", "_type": "Value"},
    {"_type": "Image"},
)
_ARROW_TYPES = {"Image": pa.struct({"bytes": pa.binary(), "path": pa.string()})}


def fingerprint(teacher: Teacher, settings: SceneSettings) -> dict[str, Any]:
    """All that the pixels depend on, by name. The count is not part of it: a set may grow."""
    identity: dict[str, Any] = completed(settings, teacher).model_dump(exclude={"count"})
    return {"teacher": teacher.fingerprint, **identity}


def synthesize(teacher: Teacher, settings: SceneSettings, out: Path, progress: bool = True) -> Path:
    """Paint `settings.count` scenes into `out`, shard by shard; what is there already is kept.

    Args:
        teacher: who paints.
        settings: what to paint; the teacher's defaults fill what they leave open.
        out: the data set's folder, made if need be.
        progress: say which device paints, and show a bar.

    Returns:
        `out`.

    Raises:
        DatasetError: if the folder holds another recipe's set (the message says what differs), a broken shard, or
            more images than are asked for.
        RecipeError: for a template that cannot be filled.
        TeacherError: for a prompt that the teacher cannot read.
    """
    template = Template(settings)
    identity = fingerprint(teacher, settings)
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    kept = {path: _num_rows(path, identity) for path in _shards(data)}
    if sum(kept.values()) > settings.count:
        raise DatasetError(
            f"{out} holds {sum(kept.values())} images of this recipe and {settings.count} are asked for: "
            f"set scenes.count to {sum(kept.values())} or more, or choose another folder"
        )
    spans = {
        data / f"train-{number:05d}.parquet": range(start, min(start + settings.shard_size, settings.count))
        for number, start in enumerate(range(0, settings.count, settings.shard_size))
    }
    missing = {path: span for path, span in spans.items() if kept.get(path) != len(span)}
    if progress and missing:
        precision = str(teacher.dtype).removeprefix("torch.")
        tqdm.write(f"painting with {teacher.name} on {teacher.device} in {precision}")
    done = settings.count - sum(map(len, missing.values()))
    with tqdm(total=settings.count, initial=done, unit="image", desc="painting", disable=not progress) as bar:
        for path, span in missing.items():
            rows = []
            for scene, image in generate(teacher, template, span):
                rows.append(_row(scene, image))
                bar.update()
            _write_shard(path, rows, identity)
    _write_whole(out / "README.md", _card(teacher, completed(settings, teacher)).encode())
    return out


class PaintedSet:
    """A data set folder, read-only. An image is read from its shard when it is asked for: read them in order.

    Attributes:
        prompts: of each image.
        slots: of each image, name to value.
        fingerprint: of what the pixels depend on, and of how many there are.

    Raises:
        DatasetError: if there is no shard in the folder, a broken one, one of another set, or one is missing.
    """

    def __init__(self, folder: Path) -> None:
        paths = _shards(folder / "data")
        if not paths:
            raise DatasetError(f"no data set in {folder}: run `distillery synthesize` first")
        identity = _identity(paths[0])
        self._places = [(path, row) for path in paths for row in range(_num_rows(path, identity))]
        self._open: Path | None = None
        columns = [name for name in pq.read_schema(paths[0]).names if name != "image"]
        table = pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])
        if table["index"].to_pylist() != list(range(len(table))):
            raise DatasetError(f"{folder} has a shard missing or cut short: run `distillery synthesize` again")
        self.prompts: list[str] = table["prompt"].to_pylist()
        names = [name.removeprefix("slot_") for name in columns if name.startswith("slot_")]
        values = [table[f"slot_{name}"].to_pylist() for name in names]
        self.slots: list[dict[str, str]] = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
        described = json.dumps([identity, len(table)], sort_keys=True)
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.prompts)

    def image(self, index: int) -> NDArray[np.uint8]:
        """uint8 (H, W, 3)."""
        path, row = self._places[index]
        if path != self._open:  # one shard at a time: a set may be larger than memory
            self._encoded = pq.read_table(path, columns=["image"])["image"].combine_chunks().field("bytes")
            self._open = path
        return np.array(Image.open(io.BytesIO(self._encoded[row].as_py())).convert("RGB"))


def _shards(data: Path) -> list[Path]:
    return sorted(data.glob("train-*.parquet"))


def _row(scene: Scene, image: Image.Image) -> dict[str, Any]:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return {
        "image": {"bytes": encoded.getvalue(), "path": f"{scene.index:06d}.png"},
        "prompt": scene.prompt,
        "seed": scene.seed,
        "index": scene.index,
        "width": image.width,
        "height": image.height,
        **{f"slot_{name}": value for name, value in scene.slots.items()},
    }


def _write_shard(path: Path, rows: list[dict[str, Any]], identity: dict[str, Any]) -> None:
    """With the types of `datasets` in the schema's metadata, where it looks for them."""
    features = {
        name: _IMAGE if name == "image" else _NUMBER if isinstance(value, int) else _TEXT
        for name, value in rows[0].items()
    }
    schema = pa.schema(
        [(name, _ARROW_TYPES.get(kind["_type"]) or kind["dtype"]) for name, kind in features.items()],
        metadata={
            b"huggingface": json.dumps({"info": {"features": features}}).encode(),
            _KEY: json.dumps(identity, sort_keys=True).encode(),
        },
    )
    shard = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(rows, schema),
        shard,
        row_group_size=_ROW_GROUP,
        write_page_index=True,
        use_content_defined_chunking=True,
    )
    _write_whole(path, shard.getvalue())


def _write_whole(path: Path, content: bytes) -> None:
    """Beside, flushed, renamed: a reader never sees half a file."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _identity(path: Path) -> dict[str, Any]:
    """What a shard's pixels depend on, as it was written down."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): delete it, and it will be painted again") from None
    if _KEY not in metadata:
        raise DatasetError(f"{path} was not written by distillery: choose another folder")
    identity: dict[str, Any] = json.loads(metadata[_KEY])
    return identity


def _num_rows(path: Path, identity: dict[str, Any]) -> int:
    """How many images a shard holds.

    Raises:
        DatasetError: if it belongs to another set.
    """
    stored = _identity(path)
    differences = [
        f"{name} is {stored.get(name)!r:.80} there and {identity.get(name)!r:.80} here"
        for name in sorted({*stored, *identity})
        if stored.get(name) != identity.get(name)
    ]
    if differences:
        raise DatasetError(
            f"{path} belongs to another set: {'; '.join(differences)}. Choose another folder, or restore the settings"
        )
    num_rows: int = pq.read_metadata(path).num_rows
    return num_rows


def _card(teacher: Teacher, settings: SceneSettings) -> str:
    """README.md, in the form that the Hub and `datasets` read."""
    licence = (
        "" if teacher.defaults.licence == UNKNOWN_LICENCE else f"license: {json.dumps(teacher.defaults.licence)}\n"
    )
    sizes = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")]
    category = next((name for most, name in sizes if settings.count < most), "100K<n<1M")
    slots = "\n".join(
        f"- `{name}`: {', '.join(map(repr, values))}" for name, values in sorted(settings.slots.items())
    )
    return f"""---
{licence}configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
size_categories:
- {category}
tags:
- synthetic
---
# {settings.count} painted scenes

Painted by `{teacher.name}` (licence: {teacher.defaults.licence}) from the template

> {settings.template}

{slots}

{settings.image_size} px, {settings.num_inference_steps} steps, guidance {settings.guidance_scale:g}, \
negative prompt {settings.negative_prompt!r}, seed {settings.seed}. Nothing in it was photographed or drawn.
Every row holds its image, prompt, seed and slot values:

```python
from datasets import load_dataset

images = load_dataset("this/folder", split="train")
```
"""
