"""What does a student keep of the method that it was distilled from? All edit the same unseen images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.examples import Example, drawn_examples
from distill.settings import EvaluationSettings
from distill.studies.methods import METHODS, OURS, Method
from distill.studies.rows import mean, paired_difference
from distill.studies.study import Row, Study, Unit, from_png, scored, sheet
from synth.pixels import png_bytes
from synth.teacher.teacher import Teacher
from synth.world.readers import FactorReader

STUDENT = "student"
BESIDE: Mapping[str, Method] = {name: METHODS[name] for name in ("SDEdit 0.4", "SDS", "DDS as published", OURS)}
"""What a student is held against, at the benchmark's settings."""
_SHOWN = 2  # images of each edit in the figure
_FIGURES = {
    "psnr_all": "dB to the truth",
    "psnr_inside": "dB inside",
    "psnr_outside_to_input": "dB to the input outside",
    "ssim_all": "SSIM",
    "right": "right",
}


@dataclass(frozen=True)
class Distilled(Study):
    """A student, as the file that ships, beside zero-shot methods."""

    translate: Callable[[NDArray[np.uint8], str], NDArray[np.uint8]] = field(repr=False)
    """Images, uint8 (N, H, W, 3), and an edit's name -> as many edited."""
    model: str
    """Which file that is."""
    edits: Mapping[str, Mapping[str, str]]
    """Name -> the factors that it sets."""
    scenes: EvaluationSettings
    """Which, and how many of each edit."""
    methods: Mapping[str, Method] = field(default_factory=lambda: BESIDE)
    name = "distilled"
    question = "What does a student keep of the method that it was distilled from?"

    def units(self) -> list[Unit]:
        return [{"edit": edit, "method": name} for edit in self.edits for name in (STUDENT, *self.methods)]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        edit, name = unit["edit"], unit["method"]
        examples = drawn_examples(self.edits[edit], self.scenes.num_scenes, self.scenes.split, **self.scenes.given)
        inputs = np.stack([example.image for example in examples])
        if name == STUDENT:
            self.translate(inputs[:1], edit)  # the first call of a file is no measure
        started = perf_counter()
        pictures = self.translate(inputs, edit) if name == STUDENT else self.methods[name](teacher, examples)
        common = {
            **{"method": name, "split": self.scenes.split, "edit": edit},
            "calls": 1 if name == STUDENT else self.methods[name].calls,
            "seconds": (perf_counter() - started) / len(examples),
        }
        reader = FactorReader.load()
        return [
            {**common, "scene": place, **scored(picture, example, reader), **_images(picture, example)}
            for place, (example, picture) in enumerate(zip(examples, pictures, strict=True))
        ]

    def figure(self, rows: Sequence[Row]) -> Image.Image:
        lines = []
        for edit in self.edits:
            for place in range(min(_SHOWN, self.scenes.num_scenes)):
                of = {row["method"]: row for row in rows if (row["edit"], row["scene"]) == (edit, place)}
                cells: list[tuple[Image.Image | None, str]] = [
                    (from_png(of[STUDENT][f"{name}_png"]), "") for name in ("input", "truth")
                ]
                cells += [(from_png(row["png"]), f"{row['psnr_all']:.1f} dB") for row in of.values()]
                lines.append((edit, cells))
        return sheet(["input", "truth", STUDENT, *self.methods], lines)

    def finding(self, rows: Sequence[Row]) -> str:
        said = []
        for name in (STUDENT, *self.methods):
            means = {key: mean(rows, key, method=name) for key in (*_FIGURES, "seconds")}
            figures = ", ".join(f"{means[key]:.3g} {unit}" for key, unit in _FIGURES.items())
            said.append(f"{name}: {figures}, {means['seconds']:.3g} s an image")
        for name in self.methods:
            gains = []
            for key, unit in _FIGURES.items():
                if any(row.get(key) is not None for row in rows):  # weather has no outside
                    gain, low, high = paired_difference(rows, STUDENT, name, self.scenes.split, key)
                    gains.append(f"{gain:+.2f} {unit} ({low:+.2f} to {high:+.2f})")
            said.append(f"{STUDENT} less {name}, with 95 % intervals: {', '.join(gains)}")
        return "\n".join(said)


def _images(picture: NDArray[np.uint8], example: Example) -> dict[str, Any]:
    assert example.truth is not None, "drawn scenes have one"
    shown = {"png": picture, "input_png": example.image, "truth_png": example.truth}
    return {name: png_bytes(Image.fromarray(pixels)) for name, pixels in shown.items()}
