"""What makes a student good? Its training with one thing changed at a time (paper, sections 5 and 6).

The sofa student on a small painted dataset, every variant with the same draws, measured during the training against
the true counterfactuals: what it learned after so many of the teacher's network calls.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.composition import translated
from distill.evaluation.diagnostics import variety
from distill.evaluation.examples import Example, drawn_examples
from distill.evaluation.grids import GridRow, labelled_grid, stacked
from distill.scores import Score, sds_of_edits, shared_source_dds
from distill.settings import TrainingSettings, edits_of_an_image, scaled_to
from distill.studies.plots import chart
from distill.studies.rows import mean
from distill.studies.study import Row, Study, Unit, measure_example
from distill.training.train import train
from synth.dataset.building import synthesize
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import PhotoTexts, Template
from synth.images.encoding import decode_rgb, png_bytes
from synth.settings import PhotoTextSettings, SceneSettings, Substitution
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
SINGLE_EDIT = "red-leather"
"""The edit that one variant learns alone."""
BASELINE = "as it is"
_PAPER_SCHEDULE = ("guidance_end", "guidance_warmup_steps", "lambda_id_start", "lambda_id_end", "lambda_id_steps")
_METRICS = ("calls", "psnr_all", "psnr_inside", "psnr_outside_to_input", "right", "variety")
_NUM_SHOWN = 5  # rooms of each variant in the plot


@dataclass(frozen=True)
class Variant:
    """A training, by what differs from the baseline's."""

    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Of the settings."""
    paper_schedule: bool = False
    """Guidance and lambda_id follow the preset `paper`, scaled; at its learning rate nothing would move in so few
    steps."""
    score: Score = shared_source_dds
    edits: tuple[str, ...] = tuple(EDITS)
    fixed_pair: bool = False
    """One source text for all images, as photographs need it, instead of each image's own."""

    def settings(self, num_steps: int) -> TrainingSettings:
        """Scale the preset `short` to `num_steps`, then override it."""
        settings = scaled_to(TrainingSettings(preset="short"), num_steps)
        overrides = {**self.overrides, "checkpoint_every": num_steps, "checkpoint_minutes": 0}
        if self.paper_schedule:
            paper = scaled_to(TrainingSettings(preset="paper"), num_steps)
            overrides |= {key: getattr(paper, key) for key in _PAPER_SCHEDULE}
        return TrainingSettings.model_validate({**settings.model_dump(), **overrides})


VARIANTS: Mapping[str, Variant] = {
    BASELINE: Variant(),
    "no guidance warm-up": Variant({"guidance_warmup_steps": 0}),
    "no identity term": Variant({"lambda_id_start": 0.0, "lambda_id_end": 0.0}),
    "SDS": Variant(score=sds_of_edits),
    "one edit alone": Variant(edits=(SINGLE_EDIT,)),
    "one fixed pair": Variant(fixed_pair=True),
    "compact": Variant({"student": "compact"}),
    "the paper's schedule": Variant(paper_schedule=True),
}


@dataclass(frozen=True)
class Ablations(Study):
    """Ablations of the training. `folder` holds the painted dataset."""

    folder: Path = field(repr=False)  # its place does not make it another study
    num_steps: int = 400
    num_images: int = 200
    num_scenes: int = 12
    name = "ablations"
    question = "What does each part of the training give?"

    def units(self) -> list[Unit]:
        return [
            {
                "variant": name,
                "edits": [EDITS[edit] for edit in variant.edits],
                "settings": variant.settings(self.num_steps).model_dump(),
            }
            for name, variant in VARIANTS.items()
        ]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        variant = VARIANTS[unit["variant"]]
        settings = variant.settings(self.num_steps)
        scenes = SCENES.model_copy(update={"count": self.num_images})
        dataset = ImageDataset(synthesize(teacher, scenes, self.folder / "set").url)
        texts, substitutions = _texts_of(variant, scenes)
        run_dir = self.folder / "training"  # of one variant after the other: they share the latents
        shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
        # The same rooms for every variant, so that their means compare.
        examples = {name: drawn_examples(EDITS[name], self.num_scenes, "development") for name in variant.edits}
        calls = _calls_of_step(variant, settings)
        rows: list[Row] = []
        for record in train(teacher, dataset, texts, substitutions, settings, run_dir, score=variant.score):
            if record.step not in self._measured_steps():
                continue
            for number, edit in enumerate(variant.edits):
                inputs = np.stack([example.image for example in examples[edit]])  # (N, H, W, 3)
                images = translated(teacher, record.student, inputs, number)
                common = {"variant": unit["variant"], "step": record.step, "calls": calls * record.step, "edit": edit}
                rows += _rows(common, examples[edit], images)
        return rows

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        grid_rows = []
        for name in _variants(rows):
            last = [row for row in rows if (row["variant"], row["step"]) == (name, self.num_steps)]
            cells = [row for row in last if row["edit"] == SINGLE_EDIT][:_NUM_SHOWN]
            captions = [f"{cell['psnr_all']:.1f} dB" for cell in cells]
            grid_rows.append(GridRow(name, [decode_rgb(cell["png"]) for cell in cells], captions))
        grid = labelled_grid([f"room {place}" for place in range(1, _NUM_SHOWN + 1)], grid_rows)
        charts = [
            self._curves(rows, "psnr_all", "PSNR to the truth, dB"),
            self._curves(rows, "right", "share of edits that are right"),
        ]
        return stacked([grid, *charts])

    def finding(self, rows: Sequence[Row]) -> str:
        lines = [f"After {self.num_steps} steps, the means over {len(EDITS)} edits."]
        for name in _variants(rows):
            edits = _edits(rows, name)
            scope = f" on {edits[0]}" if len(edits) == 1 else ""
            lines.append(f"{name}{scope}: {self._summary(rows, name, edits)}")
            if scope and BASELINE in _variants(rows):  # a single edit compares with the baseline's own of it
                lines.append(f"{BASELINE}{scope}: {self._summary(rows, BASELINE, edits)}")
        return "\n".join(lines)

    def _curves(self, rows: Sequence[Row], metric: str, label: str) -> Image.Image:
        """A metric over the teacher's calls, of the variants that learn all edits."""

        def draw(axes: Any) -> None:
            for name in _variants(rows):
                if len(_edits(rows, name)) == len(EDITS):
                    points = [_means(rows, name, step) for step in self._measured_steps()]
                    axes.plot([p["calls"] for p in points], [p[metric] for p in points], "o-", label=name)
            axes.set_xlabel("calls of the teacher's network, a latent each")
            axes.set_ylabel(label)
            axes.legend(fontsize=7)

        return chart(draw, 7.4, 4.2)

    def _summary(self, rows: Sequence[Row], name: str, edits: Sequence[str]) -> str:
        m = _means([row for row in rows if row["edit"] in edits], name, self.num_steps)
        return (
            f"{m['psnr_all']:.1f} dB, {m['psnr_inside']:.1f} inside, {m['psnr_outside_to_input']:.1f} to the input "
            f"outside, factor right {m['right']:.0%}, {m['variety']:.0%} of the variety, {m['calls']:.0f} calls"
        )

    def _measured_steps(self) -> list[int]:
        return sorted({max(1, self.num_steps // divisor) for divisor in (8, 4, 2, 1)})


def _texts_of(variant: Variant, scenes: SceneSettings) -> tuple[Template | PhotoTexts, Mapping[str, Substitution]]:
    """The texts that a variant trains on, and its edits as these texts take them."""
    if not variant.fixed_pair:
        return Template(scenes), {name: EDITS[name] for name in variant.edits}
    texts = PhotoTexts(PhotoTextSettings(source="a sofa in a living room"))
    targets = {name: f"a {' '.join(EDITS[name].values())} sofa in a living room" for name in variant.edits}
    return texts, {name: {"target": target} for name, target in targets.items()}


def _calls_of_step(variant: Variant, settings: TrainingSettings) -> int:
    """Latents that the teacher's network sees in a step: two an edit, and two for the reference branch of DDS."""
    reference = 2 if variant.score is shared_source_dds else 0
    return settings.batch_size * (2 * edits_of_an_image(settings, len(variant.edits)) + reference)


def _rows(common: Row, examples: Sequence[Example], images: NDArray[np.uint8]) -> list[Row]:
    reader = FactorReader.load()
    inputs = np.stack([example.image for example in examples])  # (N, H, W, 3)
    common = {**common, "variety": variety(inputs, images)}
    return [
        {
            **common,
            "scene": place,
            **measure_example(image, example, reader),
            "png": png_bytes(Image.fromarray(image)),
        }
        for place, (example, image) in enumerate(zip(examples, images, strict=True))
    ]


def _variants(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["variant"] for row in rows))


def _edits(rows: Sequence[Row], name: str) -> list[str]:
    return list(dict.fromkeys(row["edit"] for row in rows if row["variant"] == name))


def _means(rows: Sequence[Row], name: str, step: int) -> dict[str, float]:
    return {metric: mean(rows, metric, variant=name, step=step) for metric in _METRICS}
