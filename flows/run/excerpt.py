"""A few images of the dataset that a student was trained on: `excerpt.parquet` in the run folder.

The export checks its files on them, calibrates int8 on them, and the report shows some of them, so a finished student
needs no dataset.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from synth.errors import RunError
from synth.state import parse_json, reading

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flows.run.folder import RunFolder
    from synth.dataset.image_dataset import ImageDataset

NUM_PARITY_IMAGES = 4
NUM_CALIBRATION_IMAGES = 64  # for int8; not the images of the parity check
_NUM_IMAGES = NUM_PARITY_IMAGES + NUM_CALIBRATION_IMAGES


class _About(TypedDict):
    """What the file says about the dataset."""

    fingerprint: str
    num_images: Annotated[int, Field(ge=1)]
    rejects: dict[str, Annotated[int, Field(ge=0)]]


@dataclass(frozen=True)
class Excerpt:
    """The first images of a dataset, and what the report says about all of it."""

    images: "NDArray[np.uint8]"
    """(N, H, W, 3), as many as the export needs at most."""
    prompts: list[str]
    """One per image."""
    fingerprint: str
    """Of the whole dataset."""
    num_images: int
    """In the whole dataset."""
    rejects: dict[str, int]
    """Reason -> how many images were painted and not kept for it, the most frequent first."""


def keep_excerpt(run: "RunFolder", dataset: "ImageDataset") -> None:
    """Keep the dataset's first images in the run folder, replacing those of another dataset.

    Raises:
        DatasetError: if the file cannot be written, or the dataset is damaged.
    """
    from PIL import Image

    from synth.dataset.card import count_rejects
    from synth.dataset.shards import encoded, write_shard
    from synth.dataset.store import Store

    rows = [
        {
            "image": encoded(Image.fromarray(dataset.image(index)), f"{index:05d}.png"),
            "prompt": dataset.prompts[index],
        }
        for index in range(min(_NUM_IMAGES, len(dataset)))
    ]
    rejects = dict(count_rejects(Store(run.dataset)))
    about: _About = {"fingerprint": dataset.fingerprint, "num_images": len(dataset), "rejects": rejects}
    write_shard(Store(run.path), run.excerpt.name, rows, {"image": bytes, "prompt": str}, dict(about))


def read_excerpt(run: "RunFolder") -> Excerpt:
    """Read what the run folder keeps of its dataset. A run that keeps nothing yet takes it from the dataset.

    Raises:
        RunError: if the file is damaged.
        DatasetError: if the run keeps nothing, and there is no dataset.
    """
    import numpy as np

    from synth.images.encoding import decode_rgb

    if not run.excerpt.exists():
        from synth.dataset.image_dataset import ImageDataset

        keep_excerpt(run, ImageDataset(run.dataset))
    remedy = "delete it, and it is taken from the dataset again"
    with reading(run.excerpt, RunError, remedy):
        rows, about = _read(run.excerpt)
        return Excerpt(
            images=np.stack([np.array(decode_rgb(row["image"]["bytes"])) for row in rows]),
            prompts=[str(row["prompt"]) for row in rows],
            fingerprint=about["fingerprint"],
            num_images=about["num_images"],
            rejects=dict(sorted(about["rejects"].items(), key=lambda item: -item[1])),
        )


def _read(file: Path) -> tuple[list[dict[str, Any]], _About]:
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=["image", "prompt"])
    about: _About = parse_json((table.schema.metadata or {})[b"distillery"], _About)
    return table.to_pylist(), about
