"""How much does a student keep of the method that it was distilled from? All edit the same unseen images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.evaluation.examples import Example, drawn_examples
from distill.evaluation.grids import GridRow, labelled_grid
from distill.settings import EvaluationSettings
from distill.studies.methods import METHODS, OURS, Method
from distill.studies.rows import mean, paired_difference
from distill.studies.study import Row, Study, Unit, measure_example
from synth.images.encoding import decode_rgb, png_bytes
from synth.teacher.teacher import Teacher
from synth.world.readers import FactorReader

STUDENT = "student"
RIVALS: Mapping[str, Method] = {name: METHODS[name] for name in ("SDEdit 0.4", "SDS", "DDS as published", OURS)}
"""What a student is compared with, at the benchmark's settings."""
_NUM_SHOWN = 2  # images of each edit in the plot
_METRICS = {
    "psnr_all": "dB to the truth",
    "psnr_inside": "dB inside",
    "psnr_outside_to_input": "dB to the input outside",
    "ssim_all": "SSIM",
    "right": "right",
}


@dataclass(frozen=True)
class Distilled(Study):
    """A student, as the file that ships, compared with zero-shot methods."""

    translate: Callable[[NDArray[np.uint8], str], NDArray[np.uint8]] = field(repr=False)
    """uint8 (N, H, W, 3) and an edit's name -> the edited images, of the same shape."""
    model: str
    """A fingerprint of that file."""
    edits: Mapping[str, Mapping[str, str]]
    """Name -> the factors that it sets."""
    scenes: EvaluationSettings
    """Which ones, and how many for each edit."""
    methods: Mapping[str, Method] = field(default_factory=lambda: RIVALS)
    name = "distilled"
    question = "How much does a student keep of the method that it was distilled from?"

    def units(self) -> list[Unit]:
        return [{"edit": edit, "method": name} for edit in self.edits for name in (STUDENT, *self.methods)]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        edit = unit["edit"]
        name = unit["method"]
        examples = drawn_examples(self.edits[edit], self.scenes.num_scenes, self.scenes.split, **self.scenes.given)
        inputs = np.stack([example.image for example in examples])
        if name == STUDENT:
            self.translate(inputs[:1], edit)  # the first call of a file is slow: it is not timed
        started = perf_counter()
        images = self.translate(inputs, edit) if name == STUDENT else self.methods[name](teacher, examples)
        common = {
            "method": name,
            "split": self.scenes.split,
            "edit": edit,
            "calls": 1 if name == STUDENT else self.methods[name].calls,
            "seconds": (perf_counter() - started) / len(examples),
        }
        reader = FactorReader.load()
        return [
            {**common, "scene": place, **measure_example(image, example, reader), **_pngs(image, example)}
            for place, (example, image) in enumerate(zip(examples, images, strict=True))
        ]

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        grid_rows = []
        for edit in self.edits:
            for place in range(min(_NUM_SHOWN, self.scenes.num_scenes)):
                by_method = {row["method"]: row for row in rows if (row["edit"], row["scene"]) == (edit, place)}
                images = [decode_rgb(by_method[STUDENT][f"{name}_png"]) for name in ("input", "truth")]
                images += [decode_rgb(row["png"]) for row in by_method.values()]
                captions = ["", "", *(f"{row['psnr_all']:.1f} dB" for row in by_method.values())]
                grid_rows.append(GridRow(edit, images, captions))
        return labelled_grid(["input", "truth", STUDENT, *self.methods], grid_rows)

    def finding(self, rows: Sequence[Row]) -> str:
        lines = []
        for name in (STUDENT, *self.methods):
            means = {key: mean(rows, key, method=name) for key in (*_METRICS, "seconds")}
            listed = ", ".join(f"{means[key]:.3g} {unit}" for key, unit in _METRICS.items())
            lines.append(f"{name}: {listed}, {means['seconds']:.3g} s an image")
        for name in self.methods:
            gains = []
            for key, unit in _METRICS.items():
                if any(row.get(key) is not None for row in rows):  # weather has no outside
                    gain, low, high = paired_difference(rows, STUDENT, name, self.scenes.split, key)
                    gains.append(f"{gain:+.2f} {unit} ({low:+.2f} to {high:+.2f})")
            lines.append(f"{STUDENT} minus {name}, with 95 % intervals: {', '.join(gains)}")
        return "\n".join(lines)


def _pngs(image: NDArray[np.uint8], example: Example) -> dict[str, Any]:
    assert example.truth is not None, "drawn scenes have one"
    shown = {"png": image, "input_png": example.image, "truth_png": example.truth}
    return {name: png_bytes(Image.fromarray(pixels)) for name, pixels in shown.items()}
