"""Estimate a run's time, memory and cost, from rates that were measured here or that are known of a device.

`distill.costs` counts what a training computes. One iteration of a zero-shot edit takes 4 passes of the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from distill.costs import NAMED_DEVICES, TERA, Flops, hours_of_training, passes_per_image
from flows.config.processes import processes_of
from flows.config.schema import Recipe
from flows.planning.disk import disk_of, sizes_of

if TYPE_CHECKING:
    from distill.costs import NamedDevice
    from distill.evaluation.examples import Example
    from distill.training.footprint import Footprint
    from synth.teacher.teacher import Teacher

PASSES_OF_AN_EDIT = 4  # an image and iteration: two branches, each with and without its text


@dataclass(frozen=True)
class Rates:
    """The speed of a device, for images of one size."""

    seconds_per_image: float
    """To paint one image; 0 for photographs."""
    seconds_per_pass: float
    """One pass of the teacher's network, for one latent."""
    dollars_per_hour: float | None = None
    student: float = 1.0
    """A pass of the student, over one of the teacher."""


@dataclass(frozen=True)
class Cost:
    """What a full run takes. Exporting and measuring take minutes and are not counted."""

    painting_seconds: float
    training_seconds: float
    dollars: float | None


def cost_of(recipe: Recipe, rates: Rates) -> Cost:
    """Estimate what painting and training a recipe takes at these rates."""
    painting = recipe.scenes.count * rates.seconds_per_image if recipe.scenes is not None else 0.0
    passes = passes_per_image(recipe.training, len(recipe.edits), rates.student)
    training = recipe.training.steps * recipe.training.batch_size * passes * rates.seconds_per_pass
    return _cost(painting, training, rates.dollars_per_hour)


def cost_on(device: "NamedDevice", recipe: Recipe, flops: Flops) -> Cost:
    """Estimate what painting and training a recipe takes on a named device.

    Args:
        device: with its speed.
        recipe: with scenes that the teacher's defaults have completed.
        flops: of the recipe's networks.
    """
    painting = 0.0
    if recipe.scenes is not None:
        assert recipe.scenes.num_inference_steps is not None, "the teacher's defaults have completed the scenes"
        each = flops.of_painting(recipe.scenes.num_inference_steps)
        painting = recipe.scenes.count * each / (device.teraflops * TERA)
    training = 3600 * hours_of_training(device, recipe.training, len(recipe.edits), flops)
    return _cost(painting, training, device.dollars_per_hour)


def _cost(painting: float, training: float, dollars_per_hour: float | None) -> Cost:
    hours = (painting + training) / 3600
    return Cost(painting, training, None if dollars_per_hour is None else hours * dollars_per_hour)


def run_costs(
    teacher: "Teacher", recipe: Recipe, rates: Rates, flops: Flops, examples: "Sequence[Example]", num_images: int
) -> list[str]:
    """Describe what the full run takes, here and on named devices.

    Args:
        teacher: paints the dataset and teaches the student.
        recipe: with scenes that the teacher's defaults have completed.
        rates: as measured on this device.
        flops: of the recipe's networks.
        examples: images of the dataset, or similar ones.
        num_images: in the dataset.

    Returns:
        Lines for people.
    """
    from synth.images.encoding import png_bytes

    height, width, _ = examples[0].image.shape
    image_bytes = sum(len(png_bytes(example.pil_image)) for example in examples) / len(examples)
    sizes = sizes_of(teacher, recipe, height, width, image_bytes)
    training = recipe.training
    counted = footprint_of(teacher, recipe, height)
    here = cost_of(recipe, rates)
    price = "" if here.dollars is None else f", {here.dollars:.0f} dollars at {rates.dollars_per_hour:g} an hour"
    lines = [
        f"the full run: {num_images} images, {training.steps} steps of {training.batch_size}",
        f"here ({teacher.device}): {_times(here)}, at the speed of this preview{price}",
        f"memory: {_gigabytes(counted.total)} in training, at most; this preview took at most {_peak_memory()}",
        f"disk: {_gigabytes(disk_of(recipe, sizes, num_images))}",
    ]
    if not teacher.is_full_size:
        return [*lines, "named devices: no known speeds for a teacher of this size"]
    for device in NAMED_DEVICES:
        there = cost_on(device, recipe, flops)
        dollars = "" if there.dollars is None else f", {there.dollars:.0f} dollars"
        lines.append(f"{device.name}: {_times(there)}{dollars}. Assumed, not measured: {device.assumption}")
    return lines


def flops_of_recipe(recipe: Recipe, image_size: int) -> Flops:
    """Count the FLOPs of a recipe's networks; see `distill.costs`."""
    from distill.training.flops import flops_of
    from synth.teacher.hub import find

    model = find(recipe.teacher.id, recipe.teacher.revision)
    return flops_of(model, dict.fromkeys(recipe.edits, ""), recipe.training, image_size)


def footprint_of(teacher: "Teacher", recipe: Recipe, image_size: int) -> "Footprint":
    """Count the memory of one of a training's processes; see `distill.training.footprint`."""
    from distill.training.footprint import footprint
    from synth.teacher.hub import find

    model = find(recipe.teacher.id, recipe.teacher.revision)
    edits, on_gpu = dict.fromkeys(recipe.edits, ""), teacher.device.type == "cuda"
    num = processes_of(recipe.operations).total
    return footprint(model, edits, recipe.training, image_size, teacher.dtype, on_gpu, num)


def _peak_memory() -> str:
    """The most memory that this process has held so far."""
    import torch

    from distill.training.memory import peak_memory_bytes

    if torch.cuda.is_available():
        return f"{_gigabytes(peak_memory_bytes('cuda'))} of the GPU's memory"
    peak = peak_memory_bytes("cpu")
    return _gigabytes(peak) if peak else "an amount that this system does not report"


def _times(cost: Cost) -> str:
    painting = f"{duration(cost.painting_seconds)} to paint, " if cost.painting_seconds else ""
    return f"{painting}{duration(cost.training_seconds)} to train"


def duration(seconds: float) -> str:
    """Format as "45 s", "12 min", "3.5 h" or "2.1 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{timedelta(seconds=seconds) / timedelta(days=1):.1f} days"


def _gigabytes(num_bytes: float) -> str:
    """Format as "0.35 GB"."""
    return f"{num_bytes / 1e9:.2g} GB" if num_bytes < 1e10 else f"{num_bytes / 1e9:.0f} GB"
