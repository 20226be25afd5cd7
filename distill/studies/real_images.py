"""The user's own images edited, with and without a text of what they show (supplement, figures 5 and 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from distill.evaluation.examples import photograph_examples
from distill.evaluation.grids import GridRow, labelled_grid
from distill.settings import EditSettings
from distill.studies.study import Row, Study, Unit, trajectory
from synth.errors import ImageInputError
from synth.images.encoding import decode_rgb, open_image, png_bytes
from synth.state import reading
from synth.teacher.teacher import Teacher


@dataclass(frozen=True)
class RealImages(Study):
    """A gallery: only how far the image moved is measured, because there is no true answer."""

    settings: EditSettings
    paths: tuple[Path, ...]
    prompt: str
    source_prompt: str
    at: tuple[int, ...] = (50, 100, 200)
    """Iterations to look at."""
    name = "real-images"
    question = "What does an edit need to know about the image?"

    def units(self) -> list[Unit]:
        sources = dict.fromkeys((self.source_prompt, ""))
        return [
            {"path": str(path), "content": _digest_of(path), "source": source}
            for path in self.paths
            for source in sources
        ]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        (example,) = photograph_examples([open_image(Path(unit["path"]))], unit["source"], self.prompt)
        settings = self.settings.model_copy(update={"iterations": max(self.at)})
        images_at = {0: [example.image], **trajectory(teacher, [example], settings, self.at)}
        return [
            {
                "path": Path(unit["path"]).name,
                "source": unit["source"],
                "prompt": self.prompt,
                "iterations": iterations,
                "moved": float(np.abs(image.astype(np.float64) - example.image).mean()),
                "png": png_bytes(Image.fromarray(image)),
            }
            for iterations, (image,) in images_at.items()
        ]

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        grid_rows = []
        for path, source in dict.fromkeys((row["path"], row["source"]) for row in rows):
            cells = [row for row in rows if (row["path"], row["source"]) == (path, source)]
            captions = [f"moved {cell['moved']:.1f} of 255" for cell in cells]
            name = f'{path}: "{source}" -> "{self.prompt}"'
            grid_rows.append(GridRow(name, [decode_rgb(cell["png"]) for cell in cells], captions))
        return labelled_grid(["input", *(f"{at} iterations" for at in self.at)], grid_rows)

    def finding(self, rows: Sequence[Row]) -> str:
        last = [row for row in rows if row["iterations"] == max(self.at)]
        changes = [
            f"{np.mean([row['moved'] for row in last if row['source'] == source]):.1f} of 255 from "
            + (f'"{source}"' if source else "the null text")
            for source in dict.fromkeys(row["source"] for row in last)
        ]
        return f"Mean absolute change of a pixel: {', '.join(changes)}."


def _digest_of(path: Path) -> str:
    with reading(path, ImageInputError, "leave it out, or make it readable"):
        return sha256(path.read_bytes()).hexdigest()
