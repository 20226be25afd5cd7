"""What makes a pixel network good? Its training with one thing changed at a time.

A run's student teaches all variants, on the first of the run's images and with the same draws; they are measured
against the true counterfactuals of unseen scenes.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from distill.composition import change_of_pixels
from distill.compression.pairs import ChangeOfPixels, PixelPairs, make_pairs
from distill.compression.refinement import refine
from distill.compression.train import train
from distill.evaluation.examples import drawn_examples
from distill.evaluation.grids import GridRow, labelled_grid
from distill.evaluation.metrics import Images
from distill.pixel import PixelNetwork, load_network, translated
from distill.settings import PixelSettings
from distill.students import Student
from distill.studies.rows import mean
from distill.studies.study import Row, Study, Unit, measure_example
from distill.training.checkpoints import latest
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import Template
from synth.images.encoding import decode_rgb, png_bytes
from synth.teacher.teacher import Teacher
from synth.world.readers import FactorReader

BASELINE = "as it is"
_FEW = 400  # images of the variant with few
_METRICS = {
    "psnr_all": ".1f",
    "psnr_inside": ".1f",
    "psnr_outside_to_input": ".1f",
    "ssim_all": ".3f",
    "sharpness_inside": ".2f",
    "right": ".0%",
}
_NUM_SHOWN = 5  # scenes in the plot, each with another edit


def plain_change(image: torch.Tensor, edited: torch.Tensor, plain: torch.Tensor, cell: int) -> torch.Tensor:
    """What an edit changes by the two decodes alone, without the matte that ends it at the image's own edges."""
    return edited - plain


@dataclass(frozen=True)
class Variant:
    """A training, by what differs from the baseline's."""

    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Of the settings."""
    num_images: int | None = None
    """Of the run's (default: the study's)."""
    change: ChangeOfPixels = change_of_pixels
    """What the student's latents change of an image."""
    with_dds: bool = False
    """A last phase follows the teacher's own delta score, through its encoder."""


_WEIGHTS = ("change_weight", "gradient_weight", "feature_weight", "texture_weight", "variogram_weight")

VARIANTS: Mapping[str, Variant] = {
    BASELINE: Variant(),
    "L1 alone": Variant(dict.fromkeys(_WEIGHTS, 0.0)),
    "no weight on the change": Variant({"change_weight": 0.0}),
    "no features": Variant({"feature_weight": 0.0}),
    "no textures": Variant({"texture_weight": 0.0}),
    "no variogram": Variant({"variogram_weight": 0.0}),
    "DDS at the end": Variant(with_dds=True),
    "targets without the matte": Variant(change=plain_change),
    f"{_FEW} images": Variant(num_images=_FEW),
    "large": Variant({"size": "large", "widths": None, "blocks": None}),
}


@dataclass(frozen=True)
class Compression(Study):
    """Ablations of a pixel network's training. `folder` keeps the pairs."""

    student: Student = field(repr=False)
    identity: str
    """Tells this student from any other."""
    dataset: ImageDataset = field(repr=False)
    texts: Template = field(repr=False)
    """The template that the dataset was painted from."""
    edits: Mapping[str, dict[str, str]]
    """Name -> the factors that it sets."""
    settings: PixelSettings
    """Of the baseline, but for the number of steps."""
    given: Mapping[str, str] = field(default_factory=dict)
    """What all scenes show before the edit."""
    folder: Path = field(repr=False, kw_only=True)  # its place does not make it another study
    num_steps: int = 1500
    num_images: int = 1600
    num_scenes: int = 24
    name = "compression"
    question = "What does each part of a pixel network's training give?"

    def units(self) -> list[Unit]:
        images = self.dataset.first(self.num_images).pixels_fingerprint
        return [
            {"variant": name, "images": images, "settings": self._settings(variant).model_dump()}
            for name, variant in VARIANTS.items()
        ]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        variant = VARIANTS[unit["variant"]]
        network = self._network(teacher, unit["variant"], variant)
        reader = FactorReader.load()
        rows: list[Row] = []
        for number, edit in enumerate(self.edits):
            examples = drawn_examples(self.edits[edit], self.num_scenes, "development", **self.given)
            images: Images = translated(network, np.stack([example.image for example in examples]), number)
            for place, (example, image) in enumerate(zip(examples, images, strict=True)):
                metrics = measure_example(image, example, reader)
                png = png_bytes(Image.fromarray(image))
                rows.append({"variant": unit["variant"], "edit": edit, "scene": place, **metrics, "png": png})
        return rows

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        edits = list(self.edits)
        shown = [(place, edits[place % len(edits)]) for place in range(min(_NUM_SHOWN, self.num_scenes))]
        grid_rows = []
        for name in VARIANTS:
            by_place = {(row["scene"], row["edit"]): row for row in rows if row["variant"] == name}
            cells = [by_place[place] for place in shown]
            captions = [f"{cell['psnr_all']:.1f} dB" for cell in cells]
            grid_rows.append(GridRow(name, [decode_rgb(cell["png"]) for cell in cells], captions))
        return labelled_grid([edit for _, edit in shown], grid_rows)

    def finding(self, rows: Sequence[Row]) -> str:
        lines = [f"After {self.num_steps} steps on {self.num_images} images, the means over {len(self.edits)} edits:"]
        for name in VARIANTS:
            means = {key: mean(rows, key, variant=name) for key in _METRICS}
            listed = {key: format(means[key], form) for key, form in _METRICS.items()}
            lines.append(
                f"{name}: {listed['psnr_all']} dB, {listed['psnr_inside']} inside, "
                f"{listed['psnr_outside_to_input']} to the input outside, SSIM {listed['ssim_all']}, "
                f"sharpness {listed['sharpness_inside']}, {listed['right']} right"
            )
        return "\n".join(lines)

    def _settings(self, variant: Variant) -> PixelSettings:
        values = {"steps": self.num_steps, "checkpoint_every": self.num_steps, **variant.overrides}
        return PixelSettings.model_validate({**self.settings.model_dump(), **values})

    def _network(self, teacher: Teacher, name: str, variant: Variant) -> PixelNetwork:
        """Train a variant; return its moving average."""
        settings = self._settings(variant)
        dataset = self.dataset.first(variant.num_images or self.num_images)
        pairs = self._pairs(teacher, dataset, variant.change, settings)
        depends_on = {"variant": name, "data": dataset.fingerprint, "student": self.identity}
        run_dir = self.folder / "trainings" / name.replace(" ", "-")
        steps = train(teacher, pairs, self.student.edits, settings, depends_on, run_dir, nullcontext)
        for _ in tqdm(steps, total=settings.steps, desc=name, unit="step", leave=False):
            pass
        checkpoint = latest(run_dir)
        assert checkpoint is not None, "a training ends with a checkpoint"
        network = load_network(checkpoint / "averaged")
        network.to(teacher.device)
        if variant.with_dds:
            latents = self.folder / "latents"
            return refine(network, teacher, pairs, dataset, self.texts, self.edits, settings, latents)
        return network

    def _pairs(
        self, teacher: Teacher, dataset: ImageDataset, change: ChangeOfPixels, settings: PixelSettings
    ) -> PixelPairs:
        """Make the pairs of a variant, which variants with the same images share."""
        folder = self.folder / "pairs" / f"{change.__name__}-{len(dataset)}"
        with tqdm(total=len(dataset), desc="pairs", unit="image", leave=False) as bar:
            return make_pairs(
                teacher,
                self.student,
                self.identity,
                dataset,
                settings,
                self.folder / "latents",
                folder,
                bar,
                change,
            )
