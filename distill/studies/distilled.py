"""What does a student keep of the method that it was distilled from? Both edit the same unseen pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.examples import Example, drawn_examples
from distill.settings import EditSettings, EvaluationSettings
from distill.studies.methods import CALLS_OF
from distill.studies.rows import mean, paired_difference
from distill.studies.study import Row, Study, Unit, from_png, scored, sheet, trajectory
from synth.miniature.readers import FactorReader
from synth.pixels import png_bytes
from synth.teacher import Teacher

STUDENT, ZERO_SHOT = "student", "zero-shot DDS"
_SHOWN = 4  # pictures of each edit in the figure
_FIGURES = {
    "psnr_all": "dB to the truth",
    "psnr_inside": "dB inside",
    "psnr_outside_to_input": "dB to the input outside",
    "ssim_all": "SSIM",
    "right": "right",
}


@dataclass(frozen=True)
class Distilled(Study):
    """A student, as the file that ships, beside zero-shot DDS at the teacher's own settings."""

    translate: Callable[[NDArray[np.uint8], str], NDArray[np.uint8]] = field(repr=False)
    """Pictures, uint8 (N, H, W, 3), and an edit's name -> as many edited."""
    model: str
    """Which file that is."""
    edits: Mapping[str, Mapping[str, str]]
    """Name -> the factors that it sets."""
    scenes: EvaluationSettings
    """Which, and how many of each edit."""
    settings: EditSettings = field(default_factory=EditSettings)
    """Of the zero-shot edits."""
    name = "distilled"
    question = "What does a student keep of the method that it was distilled from?"

    def units(self) -> list[Unit]:
        return [{"edit": edit} for edit in self.edits]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        edit, settings = unit["edit"], self.settings
        examples = drawn_examples(self.edits[edit], self.scenes.num_scenes, self.scenes.split, **self.scenes.given)
        inputs = np.stack([example.image for example in examples])
        self.translate(inputs[:1], edit)  # the first call of a file is no measure
        started = perf_counter()
        distilled = self.translate(inputs, edit)
        between = perf_counter()
        optimized = trajectory(teacher, examples, settings, [settings.iterations])[settings.iterations]
        times = {STUDENT: between - started, ZERO_SHOT: perf_counter() - between}
        calls = {STUDENT: 1, ZERO_SHOT: settings.iterations * CALLS_OF[settings.method]}
        reader, rows = FactorReader.load(), []
        for method, pictures in ((STUDENT, distilled), (ZERO_SHOT, optimized)):
            spent = {"calls": calls[method], "seconds": times[method] / len(examples)}
            rows += [
                {
                    **{"method": method, "split": self.scenes.split, "edit": edit, "scene": place},
                    **spent,
                    **scored(picture, example, reader),
                    **_pictures(picture, example),
                }
                for place, (example, picture) in enumerate(zip(examples, pictures, strict=True))
            ]
        return rows

    def figure(self, rows: Sequence[Row]) -> Image.Image:
        lines = []
        for edit in self.edits:
            cells: list[tuple[Image.Image | None, str]] = []
            for place in range(min(_SHOWN, self.scenes.num_scenes)):
                of = {row["method"]: row for row in rows if (row["edit"], row["scene"]) == (edit, place)}
                cells += [(from_png(of[STUDENT][f"{name}_png"]), "") for name in ("input", "truth")]
                cells += [(from_png(row["png"]), f"{row['psnr_all']:.1f} dB") for row in of.values()]
            lines.append((edit, cells))
        return sheet(["input", "truth", STUDENT, ZERO_SHOT] * min(_SHOWN, self.scenes.num_scenes), lines)

    def finding(self, rows: Sequence[Row]) -> str:
        said = []
        for method in (STUDENT, ZERO_SHOT):
            means = {key: mean(rows, key, method=method) for key in (*_FIGURES, "seconds")}
            figures = ", ".join(f"{means[key]:.3g} {unit}" for key, unit in _FIGURES.items())
            said.append(f"{method}: {figures}, {means['seconds']:.3g} s a picture")
        gains = []
        for key, unit in _FIGURES.items():
            if any(row.get(key) is not None for row in rows):  # weather has no outside
                gain, low, high = paired_difference(rows, STUDENT, ZERO_SHOT, self.scenes.split, key)
                gains.append(f"{gain:+.2f} {unit} ({low:+.2f} to {high:+.2f})")
        return "\n".join([*said, f"{STUDENT} less {ZERO_SHOT}, with 95 % intervals: {', '.join(gains)}"])


def _pictures(picture: NDArray[np.uint8], example: Example) -> dict[str, Any]:
    assert example.truth is not None, "drawn scenes have one"
    shown = {"png": picture, "input_png": example.image, "truth_png": example.truth}
    return {name: png_bytes(Image.fromarray(pixels)) for name, pixels in shown.items()}
