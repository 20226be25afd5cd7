"""What makes a translator good? Its training with one thing changed at a time (paper, sections 5 and 6).

The sofa network on a small painted set, every arm with the same draws, and measured along its way against the true
counterfactuals: what it learned after so many of the teacher's network calls.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distill.diagnostics import variety
from distill.examples import Example, drawn_examples
from distill.scores import Score, sds_of_edits, shared_source_dds
from distill.settings import TrainingSettings
from distill.students import translated
from distill.studies.rows import mean
from distill.studies.study import Row, Study, Unit, chart, from_png, scored, sheet, stacked
from distill.train import train
from synth.dataset.building import synthesize
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import PhotoTexts, Template
from synth.pixels import png_bytes
from synth.settings import PhotoTextSettings, SceneSettings
from synth.teacher.teacher import Teacher
from synth.world.readers import FactorReader

SCENES = SceneSettings(
    template="a {color} {material} sofa in a living room with {wall} walls, a wooden floor and {thing}",
    slots={
        "color": ["red", "blue", "green", "yellow", "purple", "orange", "grey", "black", "brown", "white", "pink"],
        "material": ["fabric", "leather", "velvet", "striped"],
        "wall": ["white", "grey", "beige", "green", "blue", "pink"],
        "thing": ["a floor lamp", "a window", "a picture on the wall", "a red rug", "a blue rug"],
    },
    count=200,
)
EDITS: Mapping[str, dict[str, str]] = {
    "red-leather": {"color": "red", "material": "leather"},
    "purple-velvet": {"color": "purple", "material": "velvet"},
    "yellow-velvet": {"color": "yellow", "material": "velvet"},
    "blue-fabric": {"color": "blue", "material": "fabric"},
}
ALONE = "red-leather"
"""The edit that one arm learns by itself."""
AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Arm:
    """A training, by what differs from the one that is as it is."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of the settings."""
    warmup: float = 0.15
    """How much of the training the guidance takes to rise."""
    annealing: float = 1.0
    """How much of it lambda_id takes to fall."""
    score: Score = shared_source_dds
    edits: tuple[str, ...] = tuple(EDITS)
    fixed_pair: bool = False
    """One source text for all images, as photographs force it, in place of each one's own."""


ARMS: Mapping[str, Arm] = {
    AS_IT_IS: Arm(),
    "no guidance warm-up": Arm(warmup=0.0),
    "no identity term": Arm({"lambda_id_start": 0.0, "lambda_id_end": 0.0}),
    "SDS": Arm(score=sds_of_edits),
    "one edit alone": Arm(edits=(ALONE,)),
    "one fixed pair": Arm(fixed_pair=True),
    "compact": Arm({"student": "compact"}),
    "the paper's schedule": Arm(  # its lengths scaled; at its learning rate nothing would have moved yet
        {"guidance_end": 25.0, "lambda_id_start": 3.0, "lambda_id_end": 0.1},
        warmup=0.16,
        annealing=0.16,
    ),
}


@dataclass(frozen=True)
class Ablations(Study):
    """Ablations of the training. `folder` keeps the painted set."""

    folder: Path = field(repr=False)  # where it lies makes no other study of it
    num_steps: int = 400
    num_images: int = 200
    num_scenes: int = 12
    name = "translator"
    question = "What does each part of the training give?"

    def units(self) -> list[Unit]:
        return [
            {"arm": name, "edits": [EDITS[edit] for edit in arm.edits], "settings": self._settings(arm).model_dump()}
            for name, arm in ARMS.items()
        ]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        arm, settings = ARMS[unit["arm"]], self._settings(ARMS[unit["arm"]])
        scenes = SCENES.model_copy(update={"count": self.num_images})
        painted = ImageDataset(synthesize(teacher, scenes, self.folder / "set").url)
        edits = {name: EDITS[name] for name in arm.edits}
        texts: Template | PhotoTexts = Template(scenes)
        if arm.fixed_pair:
            texts = PhotoTexts(PhotoTextSettings(source="a sofa in a living room"))
            words = {name: f"a {' '.join(edit.values())} sofa in a living room" for name, edit in edits.items()}
            taught = {name: {"target": target} for name, target in words.items()}
        else:
            taught = edits
        run = self.folder / "training"  # of one arm after the other: they share the latents
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        examples = {name: drawn_examples(edit, self.num_scenes, "development") for name, edit in edits.items()}
        calls = settings.batch_size * (2 * len(edits) + (2 if arm.score is shared_source_dds else 0))
        rows: list[Row] = []
        for record in train(teacher, painted, texts, taught, settings, run, score=arm.score):
            if record.step in self._points():
                for number, name in enumerate(edits):
                    inputs = np.stack([example.image for example in examples[name]])
                    pictures = translated(teacher, record.student, inputs, number)
                    rows += _rows(unit["arm"], record.step, calls * record.step, name, examples[name], pictures)
        return rows

    def figure(self, rows: Sequence[Row]) -> Image.Image:
        lines = []
        for arm in _arms(rows):
            cells = [r for r in rows if r["arm"] == arm and r["edit"] == ALONE and r["step"] == self.num_steps][:5]
            lines.append((arm, [(from_png(cell["png"]), f"{cell['psnr_all']:.1f} dB") for cell in cells]))

        def curves(figure: str, label: str) -> Image.Image:
            def draw(axes: Any) -> None:
                for arm in (arm for arm in _arms(rows) if len(_edits(rows, arm)) == len(EDITS)):
                    points = [_means(rows, arm, step) for step in self._points()]
                    axes.plot(
                        [point["calls"] for point in points], [point[figure] for point in points], "o-", label=arm
                    )
                axes.set_xlabel("calls of the teacher's network, a latent each")
                axes.set_ylabel(label)
                axes.legend(fontsize=7)

            return chart(draw, 7.4, 4.2)

        charts = [curves("psnr_all", "PSNR to the truth, dB"), curves("right", "share of edits that are right")]
        return stacked([sheet([f"room {place}" for place in range(1, 6)], lines), *charts])

    def finding(self, rows: Sequence[Row]) -> str:
        said = []
        for arm in _arms(rows):
            edits = _edits(rows, arm)
            over = f" on {edits[0]}" if len(edits) == 1 else ""
            said.append(f"{arm}{over}: {self._figures(rows, arm, edits)}")
            if over and AS_IT_IS in _arms(rows):
                said.append(f"{AS_IT_IS}{over}: {self._figures(rows, AS_IT_IS, edits)}")
        return "\n".join([f"After {self.num_steps} steps, the means over {len(EDITS)} edits.", *said])

    def _figures(self, rows: Sequence[Row], arm: str, edits: Sequence[str]) -> str:
        m = _means([row for row in rows if row["edit"] in edits], arm, self.num_steps)
        return (
            f"{m['psnr_all']:.1f} dB, {m['psnr_inside']:.1f} inside, {m['psnr_outside_to_input']:.1f} to the input "
            f"outside, factor right {m['right']:.0%}, {m['variety']:.0%} of the variety, {m['calls']:.0f} calls"
        )

    def _points(self) -> list[int]:
        """The steps at which it is measured."""
        return sorted({max(1, self.num_steps // part) for part in (8, 4, 2, 1)})

    def _settings(self, arm: Arm) -> TrainingSettings:
        """The preset `short`, its lengths as shares of the steps."""
        lengths = {
            "steps": self.num_steps,
            "guidance_warmup_steps": round(arm.warmup * self.num_steps),
            "lambda_id_steps": round(arm.annealing * self.num_steps),
            "learning_rate_steps": self.num_steps,
            "checkpoint_every": self.num_steps,
        }
        return TrainingSettings.model_validate({"preset": "short", **lengths, **arm.changes})


def _rows(
    arm: str, step: int, calls: int, edit: str, examples: Sequence[Example], pictures: np.ndarray[Any, Any]
) -> list[Row]:
    reader = FactorReader.load()
    inputs = np.stack([example.image for example in examples])
    common = {"arm": arm, "step": step, "calls": calls, "edit": edit}
    common["variety"] = variety(inputs, pictures)
    return [
        {**common, "scene": place, **scored(picture, example, reader), "png": png_bytes(Image.fromarray(picture))}
        for place, (example, picture) in enumerate(zip(examples, pictures, strict=True))
    ]


def _arms(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows))


def _edits(rows: Sequence[Row], arm: str) -> list[str]:
    return list(dict.fromkeys(row["edit"] for row in rows if row["arm"] == arm))


def _means(rows: Sequence[Row], arm: str, step: int) -> dict[str, float]:
    figures = ("calls", "psnr_all", "psnr_inside", "psnr_outside_to_input", "right", "variety")
    return {figure: mean(rows, figure, arm=arm, step=step) for figure in figures}
