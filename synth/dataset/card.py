"""The data set's card: README.md in the form that the Hub and `datasets` read."""

import io
import json
from collections import Counter

import numpy as np
from PIL import Image

from synth.dataset.shards import read_rows
from synth.dataset.store import Store
from synth.images import decode_rgb
from synth.settings import SceneSettings
from synth.teacher.teacher import UNKNOWN_LICENCE

_GRID = (4, 8)  # rows and columns of the sample grid
_GRID_SIDE = 128  # px


def write_card(store: Store, settings: SceneSettings, teacher: str, licence: str, images_per_second: float) -> None:
    """Write README.md and grid.png, from what is in the set.

    Args:
        store: of a finished set.
        settings: with the teacher's defaults filled in.
        teacher: its name.
        licence: the teacher's.
        images_per_second: of the run that painted last; 0 if nothing was painted.
    """
    shards = store.names("data/train-*.parquet")
    slots = sorted(settings.slots)
    counts: dict[str, Counter[str]] = {name: Counter() for name in slots}
    num_images = 0
    for shard in shards:
        for row in read_rows(store, shard, [f"slot_{name}" for name in slots]):
            num_images += 1
            for name in slots:
                counts[name][row[f"slot_{name}"]] += 1
    reasons = count_rejects(store)
    _write_grid(store, shards[0])
    store.write(
        "README.md",
        "\n".join(
            [
                _front_matter(licence, num_images, shards, store),
                _head(settings, teacher, licence, num_images, images_per_second),
                _slots(counts, num_images),
                _filters(settings, reasons, num_images),
                _TAIL,
            ]
        ).encode(),
    )


def count_rejects(store: Store) -> Counter[str]:
    """Reason -> how many images were painted and not kept for it."""
    reasons: Counter[str] = Counter()
    for rejects in store.names("rejects/train-*.parquet"):
        reasons.update(_kind(row["reason"]) for row in read_rows(store, rejects, ["reason"]))
    return reasons


def _front_matter(licence: str, num_images: int, shards: list[str], store: Store) -> str:
    known = "" if licence == UNKNOWN_LICENCE else f"license: {json.dumps(licence)}\n"
    sizes = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")]
    category = next((name for most, name in sizes if num_images < most), "100K<n<1M")
    return f"""---
{known}configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
- config_name: rejects
  data_files:
  - split: train
    path: rejects/train-*.parquet
size_categories:
- {category}
tags:
- synthetic
---"""


def _head(settings: SceneSettings, teacher: str, licence: str, num_images: int, images_per_second: float) -> str:
    speed = f" The last run painted {images_per_second:.2g} images a second." if images_per_second else ""
    return f"""# {num_images} painted scenes

![a sample](grid.png)

Painted by `{teacher}` (licence: {licence}) from the template

> {settings.template}

{settings.image_size} px, {settings.num_inference_steps} steps, guidance {settings.guidance_scale:g}, \
negative prompt {settings.negative_prompt!r}, seed {settings.seed}.{speed} Nothing in it was photographed.
Every row holds its image, prompt, seed, slot values and filter scores:

```python
from datasets import load_dataset

images = load_dataset("this/folder", split="train")
```
"""


def _slots(counts: dict[str, Counter[str]], num_images: int) -> str:
    lines = ["## What varies\n", "| slot | values, and the share of the images that have them |", "|---|---|"]
    for name, values in counts.items():
        shares = ", ".join(
            f"{value or '(nothing)'} {count / num_images:.1%}" for value, count in values.most_common()
        )
        lines.append(f"| `{name}` | {shares} |")
    return "\n".join([*lines, ""])


def _filters(settings: SceneSettings, reasons: Counter[str], num_images: int) -> str:
    rejected = reasons.total()
    lines = ["## What was rejected\n"]
    used = {key: value for key, value in settings.filters.model_dump().items() if value is not None}
    lines.append(f"Filters: {', '.join(f'`{key}` = {value}' for key, value in used.items())}.\n")
    lines.append(f"{rejected} of {rejected + num_images} images ({rejected / (rejected + num_images):.1%}).\n")
    if reasons:
        lines += ["| reason | images |", "|---|---|"]
        lines += [f"| {reason} | {count} |" for reason, count in reasons.most_common()]
        lines.append("\nThey are in `rejects/`, with thumbnails.")
    return "\n".join([*lines, ""])


_TAIL = """## Use

Made to train image-to-image networks against the very model that painted it; each image's prompt tells the truth
about it as far as that model obeys. It shows that model's habits and biases: who lives in its rooms, whose faces it
paints, which objects it takes for granted. Do not use it as evidence about the real world. What the teacher's licence
asks of its outputs holds for these images.
"""


def _write_grid(store: Store, shard: str) -> None:
    rows, columns = _GRID
    images = []
    for row in read_rows(store, shard, ["image"])[: rows * columns]:
        picture = decode_rgb(row["image"]["bytes"])
        images.append(np.asarray(picture.resize((_GRID_SIDE, _GRID_SIDE), Image.Resampling.LANCZOS)))
    images += [np.full((_GRID_SIDE, _GRID_SIDE, 3), 255, np.uint8)] * (-len(images) % columns)
    lines = [np.concatenate(images[start : start + columns], axis=1) for start in range(0, len(images), columns)]
    page = io.BytesIO()
    Image.fromarray(np.concatenate(lines)).save(page, "PNG")
    store.write("grid.png", page.getvalue())


def _kind(reason: str) -> str:
    """A reason without its figures."""
    return reason.partition(":")[0] if reason.startswith("blank") else " ".join(reason.split()[:2])
