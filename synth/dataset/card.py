"""The dataset's card: README.md in the form that the Hub and `datasets` read, and a grid of samples."""

import io
from collections import Counter

import numpy as np
from huggingface_hub import DatasetCardData
from PIL import Image

from synth.dataset.shards import num_rows, read_rows, shard_name, shard_names
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.images.encoding import decode_rgb
from synth.markdown import Markdown, code, table
from synth.settings import PhotoSettings, SceneSettings
from synth.teacher.hub import UNKNOWN_LICENCE
from synth.templates import hub_licence, parquet_config, public_name, render_card

_OURS = "data/train-*.parquet"  # in the front matter of every card of ours
_UNFINISHED = "# Unfinished"
_GRID = (4, 8)  # rows and columns of the sample grid
_GRID_SIDE = 128  # px


def write_card(store: Store, settings: SceneSettings, teacher: str, licence: str, images_per_second: float) -> None:
    """Write README.md and grid.png from what is in the dataset.

    Args:
        store: of a finished dataset.
        settings: with the teacher's defaults filled in.
        teacher: its name.
        licence: the teacher's.
        images_per_second: of the run that painted last; 0 if nothing was painted.
    """
    shards = shard_names(store)
    counts, num_images = _count_slots(store, shards, sorted(settings.slots))
    reasons = count_rejects(store)
    num_rejected = reasons.total()
    num_painted = num_images + num_rejected
    write_grid(store, shards[0])
    card = render_card(
        "synth.dataset",
        "painted_card.md",
        _front_matter(licence, num_images),
        num_images=num_images,
        teacher=public_name(teacher),
        licence=licence,
        settings=settings,
        guidance_scale=f"{settings.guidance_scale:g}",
        negative_prompt=repr(settings.negative_prompt),
        images_per_second=f"{images_per_second:.2g}" if images_per_second else "",
        slots=_slots(counts, num_images),
        filters=settings.filters.model_dump(exclude_none=True),
        num_rejected=num_rejected,
        num_painted=num_painted,
        share_rejected=f"{num_rejected / num_painted:.1%}",
        reasons=table(("reason", "images"), reasons.most_common()),
    )
    store.write("README.md", card.encode())


def write_photographs_card(store: Store, settings: PhotoSettings, source: str) -> None:
    """Write README.md and grid.png of imported photographs; `source` is the last part of where they come from."""
    num_kept, num_rejected = (
        sum(num_rows(store, name) for name in shard_names(store, folder)) for folder in ("data", "rejects")
    )
    write_grid(store, shard_name(0))
    card = render_card(
        "synth.dataset",
        "photographs_card.md",
        DatasetCardData(configs=_configs()),
        num_kept=num_kept,
        num_rejected=num_rejected,
        source=source,
        settings=settings,
    )
    store.write("README.md", card.encode())


def write_unfinished_card(store: Store) -> None:
    """Write a card where there is none yet: it tells `datasets` which shards are images and which are rejects."""
    if not store.exists("README.md"):
        card = render_card("synth.dataset", "unfinished_card.md", DatasetCardData(configs=_configs()))
        store.write("README.md", card.encode())


def is_unfinished(store: Store) -> bool:
    """Return whether the set has no card yet that describes it."""
    return not store.exists("README.md") or _UNFINISHED in store.read("README.md").decode("utf-8", "replace")


def refuse_foreign_files(store: Store) -> None:
    """Refuse a folder without shards whose files a set would overwrite: they are somebody's.

    Raises:
        DatasetError: if there are such files.
    """
    if store.names(_OURS):
        return
    if store.exists("README.md") and _OURS in store.read("README.md").decode("utf-8", "replace"):
        return  # of a set whose shards are yet to come, or were deleted
    for name in ("README.md", "grid.png", "preview.html", "import.json"):
        if store.exists(name):
            raise DatasetError(f"{store} is not a dataset, and its {name} would be overwritten: choose another --out")


def count_rejects(store: Store) -> Counter[str]:
    """Reason -> how many images were painted and not kept for it."""
    reasons: Counter[str] = Counter()
    for rejects in shard_names(store, "rejects"):
        reasons.update(_kind(row["reason"]) for row in read_rows(store, rejects, ["reason"]))
    return reasons


def _count_slots(store: Store, shards: list[str], slots: list[str]) -> tuple[dict[str, Counter[str]], int]:
    """Slot -> value -> how many images have it, and how many images there are."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in slots}
    num_images = 0
    for shard in shards:
        for row in read_rows(store, shard, [f"slot_{name}" for name in slots]):
            num_images += 1
            for name in slots:
                counts[name][row[f"slot_{name}"]] += 1
    return counts, num_images


def _front_matter(licence: str, num_images: int) -> DatasetCardData:
    sizes = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")]
    category = next((name for limit, name in sizes if num_images < limit), "100K<n<1M")
    return DatasetCardData(
        license=None if licence == UNKNOWN_LICENCE else hub_licence(licence),
        configs=_configs(),
        size_categories=[category],
        tags=["synthetic"],
    )


def _configs() -> list[dict[str, object]]:
    return [parquet_config("default", "data"), parquet_config("rejects", "rejects")]


def _slots(counts: dict[str, Counter[str]], num_images: int) -> Markdown:
    rows = []
    for name, values in counts.items():
        shares = ", ".join(
            f"{value or '(nothing)'} {count / num_images:.1%}" for value, count in values.most_common()
        )
        rows.append((code(name), shares))
    return table(("slot", "values, and the share of the images that have them"), rows)


def write_grid(store: Store, shard: str) -> None:
    """Write grid.png from the first images of a shard."""
    rows, columns = _GRID
    images = []
    for row in read_rows(store, shard, ["image"])[: rows * columns]:
        image = decode_rgb(row["image"]["bytes"])
        images.append(np.asarray(image.resize((_GRID_SIDE, _GRID_SIDE), Image.Resampling.LANCZOS)))
    # White fills up the last line, so that all lines are equally long.
    images += [np.full((_GRID_SIDE, _GRID_SIDE, 3), 255, np.uint8)] * (-len(images) % columns)
    lines = [np.concatenate(images[start : start + columns], axis=1) for start in range(0, len(images), columns)]
    encoded = io.BytesIO()
    Image.fromarray(np.concatenate(lines)).save(encoded, "PNG")
    store.write("grid.png", encoded.getvalue())


def _kind(reason: str) -> str:
    """A reason without its numbers."""
    return reason.partition(":")[0] if reason.startswith("blank") else " ".join(reason.split()[:2])
