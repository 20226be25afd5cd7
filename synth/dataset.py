"""Painted scenes on disk: Parquet shards that `datasets.load_dataset(folder)` opens with nothing of ours installed.

A shard is written whole or not at all. Its bytes follow from the fingerprint (teacher, template, seed, size, steps,
batch size) and its number, so a folder can be continued, or grown, by painting what is missing.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from synth.errors import DatasetError
from synth.prompts import Scene, Template
from synth.seeds import derive_seed
from synth.settings import SceneSettings
from synth.teacher import Teacher

_ATTEMPTS = 5  # how often a picture that the safety checker blacked out is painted anew


def fingerprint(teacher: Teacher, settings: SceneSettings) -> dict[str, Any]:
    """All that the pixels depend on, by name. The count is not part of it: a set may grow."""
    return {
        "teacher": teacher.name,
        "teacher_fingerprint": teacher.fingerprint,
        **settings.model_dump(exclude={"count"}),
        "image_size": settings.image_size or teacher.defaults.image_size,
        "num_inference_steps": settings.num_inference_steps or teacher.defaults.num_inference_steps,
        "guidance_scale": settings.guidance_scale or teacher.defaults.guidance_scale,
    }


def synthesize(teacher: Teacher, settings: SceneSettings, out: Path, progress: bool = True) -> Path:
    """Paint `settings.count` scenes into `out`, shard by shard; what is there already is kept.

    Raises:
        DatasetError: if the folder holds another recipe's set; the message says what differs.
        RecipeError: for a template that cannot be filled.
    """
    template = Template(settings)
    wanted = fingerprint(teacher, settings)
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    for part in data.glob("*.part"):
        part.unlink()
    shards = [
        (number, range(start, min(start + settings.shard_size, settings.count)))
        for number, start in enumerate(range(0, settings.count, settings.shard_size))
    ]
    missing = []
    for number, span in shards:
        path = _shard(data, number)
        if path.exists():
            _refuse_foreign(path, wanted)
        if not path.exists() or pq.read_metadata(path).num_rows < len(span):
            missing.append((path, span))
    with tqdm(total=settings.count, unit="image", desc="painting", disable=not progress) as bar:
        bar.update(settings.count - sum(len(span) for _, span in missing))
        for path, span in missing:
            rows = []
            for scene, image in paint(teacher, template, span, wanted):
                rows.append(_row(scene, image))
                bar.update(1)
            _write_shard(path, rows, wanted)
    _write_card(out, teacher, settings, wanted)
    return out


def paint(
    teacher: Teacher, template: Template, span: range, wanted: Mapping[str, Any]
) -> Iterator[tuple[Scene, Image.Image]]:
    """Paint scenes in batches that are always full, each picture from its own generator, so that a picture depends
    neither on its place in the batch nor on how many others were asked for."""
    size = template.settings.batch_size
    for start in range(span.start, span.stop, size):
        scenes = [template.scene(index) for index in range(start, start + size)]
        seeds = [scene.seed for scene in scenes]
        for attempt in range(_ATTEMPTS):
            output = teacher.pipeline(
                [scene.prompt for scene in scenes],
                negative_prompt=[scene.negative_prompt for scene in scenes],
                height=wanted["image_size"],
                width=wanted["image_size"],
                num_inference_steps=wanted["num_inference_steps"],
                guidance_scale=wanted["guidance_scale"],
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            )
            flagged = getattr(output, "nsfw_content_detected", None) or [False] * size
            if not any(flagged):
                break
            seeds = [
                derive_seed(scene.seed, "again", attempt) if flag else seed
                for scene, seed, flag in zip(scenes, seeds, flagged, strict=True)
            ]
        else:
            raise DatasetError(
                f"the safety checker refused scene {start} or a neighbour {_ATTEMPTS} times: reword the template"
            )
        yield from zip(scenes[: span.stop - start], output.images, strict=False)


class PaintedSet:
    """A data set folder, read-only. Images are decoded when asked for.

    Raises:
        DatasetError: if there is no shard in the folder.
    """

    def __init__(self, folder: Path) -> None:
        paths = sorted((folder / "data").glob("train-*.parquet"))
        if not paths:
            raise DatasetError(f"no data set in {folder}: run `distillery synthesize` first")
        table = pa.concat_tables([pq.read_table(path) for path in paths])
        self.prompts: list[str] = table["prompt"].to_pylist()
        names = [name for name in table.column_names if name.startswith("slot_")]
        columns = {name.removeprefix("slot_"): table[name].to_pylist() for name in names}
        self.slots = [{name: values[row] for name, values in columns.items()} for row in range(len(table))]
        self._images = table["image"].combine_chunks().field("bytes")
        described = f"{_stored_fingerprint(paths[0])}{len(table)}"
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.prompts)

    def image(self, index: int) -> NDArray[np.uint8]:
        """uint8 (H, W, 3)."""
        return np.asarray(Image.open(io.BytesIO(self._images[index].as_py())).convert("RGB"))


def _shard(data: Path, number: int) -> Path:
    return data / f"train-{number:05d}.parquet"


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


def _write_shard(path: Path, rows: list[dict[str, Any]], wanted: Mapping[str, Any]) -> None:
    """Beside, flushed, renamed: a reader never sees half a shard."""
    text = {"dtype": "string", "_type": "Value"}
    number = {"dtype": "int64", "_type": "Value"}
    features = {name: number if name in ("seed", "index", "width", "height") else text for name in rows[0]}
    fields = [pa.field(name, pa.int64() if kind is number else pa.string()) for name, kind in features.items()]
    fields[0] = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    typed = {**features, "image": {"_type": "Image"}}
    metadata = {
        "huggingface": json.dumps({"info": {"features": typed}}),
        "distillery": json.dumps(wanted, sort_keys=True),
    }
    table = pa.Table.from_pylist(rows, pa.schema(fields, metadata=metadata))
    part = path.with_suffix(".parquet.part")
    with part.open("wb") as file:
        pq.write_table(table, file, row_group_size=100, write_page_index=True, use_content_defined_chunking=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _stored_fingerprint(path: Path) -> str:
    metadata = pq.read_schema(path).metadata or {}
    if b"distillery" not in metadata:
        raise DatasetError(f"{path} was not written by distillery: choose an empty folder")
    return str(metadata[b"distillery"].decode())


def _refuse_foreign(path: Path, wanted: Mapping[str, Any]) -> None:
    stored = json.loads(_stored_fingerprint(path))
    fresh = json.loads(json.dumps(wanted))
    for name in sorted({*stored, *fresh}):
        if stored.get(name) != fresh.get(name):
            raise DatasetError(
                f"{path.parent.parent} holds another set: its {name} is {stored.get(name)!r}, "
                f"this recipe's is {fresh.get(name)!r}; choose another --out or restore the setting"
            )


def _write_card(out: Path, teacher: Teacher, settings: SceneSettings, wanted: Mapping[str, Any]) -> None:
    slots = "\n".join(f"- `{name}`: {', '.join(values)}" for name, values in sorted(settings.slots.items()))
    text = f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
tags:
- synthetic
---
# {settings.count} painted scenes

Painted by `{teacher.name}` (licence: {teacher.defaults.licence}) from the template

> {settings.template}

{slots}

{wanted["image_size"]} px, {wanted["num_inference_steps"]} steps, guidance {wanted["guidance_scale"]}, seed {settings.seed}.
Every row holds its own prompt, seed and slot values: `datasets.load_dataset("this folder")`.
"""
    part = out / "README.md.part"
    part.write_text(text)
    os.replace(part, out / "README.md")
