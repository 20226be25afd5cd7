"""What a run will take: time, memory, disk and money, from rates that were measured here or written down.

Nothing heavy is imported before a teacher is at hand.

A step of the training asks the teacher 2 + 2 K times for each image, K edits with one reference branch for all of
them, and takes the student forward and back K times, which is about three passes of a network of the same size. So
2 + 5 K passes an image are counted, of which 4 are what one iteration of a zero-shot edit takes for an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flows.config.schema import Recipe

if TYPE_CHECKING:
    from distill.examples import Example
    from synth.teacher.teacher import Teacher

PASSES_OF_AN_EDIT = 4  # two branches, each with and without its text
_OVERHEAD = 1.1  # of a set: the gallery and the rejects' thumbnails


@dataclass(frozen=True)
class Rates:
    """How quick a device is, for images of one size."""

    seconds_per_image: float
    """To paint one; 0 where photographs are taken."""
    seconds_per_pass: float
    """Of the teacher's network, for one latent."""
    dollars_per_hour: float | None = None


@dataclass(frozen=True)
class Sizes:
    """What lies on disk or in memory, in bytes."""

    image: float
    """Of one encoded image."""
    latent: int
    """Of one image's latent, in float32."""
    teacher: int
    """Of all its weights, as they lie in memory."""
    student: int
    """Of its weights in float32."""
    learned: int
    """Of those among them that are trained: all, but for LoRA."""
    vae: int
    """Of its weights in float32, which every model file holds too."""


@dataclass(frozen=True)
class Cost:
    """Of a full run."""

    painting_seconds: float
    training_seconds: float
    dollars: float | None

    @property
    def seconds(self) -> float:
        """Of both; exporting and measuring take minutes and are not counted."""
        return self.painting_seconds + self.training_seconds


@dataclass(frozen=True)
class NamedDevice:
    """A device by its name, with the assumptions that its figures rest on."""

    name: str
    images_per_second: float
    """Stable Diffusion 1.5, 512 px, 50 steps."""
    training_hours: float
    """The published training: 125,000 steps of two images."""
    dollars_per_hour: float | None
    assumption: str

    def rates(self, image_size: int, num_inference_steps: int) -> Rates:
        """Its rates at another size, taken to follow the number of pixels."""
        pixels = (image_size / _PUBLISHED_SIZE) ** 2
        passes = _PUBLISHED_STEPS * _PUBLISHED_BATCH * _passes_per_image(_PUBLISHED_EDITS)
        return Rates(
            pixels * num_inference_steps / _PUBLISHED_INFERENCE_STEPS / self.images_per_second,
            pixels * self.training_hours * 3600 / passes,
            self.dollars_per_hour,
        )


_PUBLISHED_SIZE, _PUBLISHED_INFERENCE_STEPS = 512, 50
_PUBLISHED_STEPS, _PUBLISHED_BATCH = 125_000, 2
_PUBLISHED_EDITS = 4  # of the sofa network; the paper does not say which of its networks took 23 hours
_A6000_SLOWER = 0.29 / 0.11  # img2img-turbo at 512 px, as its authors report it on both

NAMED_DEVICES = (
    NamedDevice(
        "one A100",
        1.2,
        23.0,
        2.0,
        "1.2 images a second with stock diffusers, by report; 23 hours for the published training, taken to be one "
        "of four edits; 2 dollars an hour",
    ),
    NamedDevice(
        "one A6000",
        1.2 / _A6000_SLOWER,
        23.0 * _A6000_SLOWER,
        None,
        f"{_A6000_SLOWER:.1f} times an A100's time, as img2img-turbo's authors report of their network on both",
    ),
)
"""For teachers of the size of Stable Diffusion 1.x and 2.x alone. Nothing here was run by this project."""

FULL_SIZE = (500_000_000, 1_200_000_000)
"""Parameters of a network that the named devices' figures are taken to hold for; Stable Diffusion 1.x and 2.x have
about 860 million."""


def cost_of(recipe: Recipe, rates: Rates) -> Cost:
    """What painting and training a recipe takes at these rates."""
    painting = recipe.scenes.count * rates.seconds_per_image if recipe.scenes is not None else 0.0
    passes = recipe.training.steps * recipe.training.batch_size * _passes_per_image(len(recipe.edits))
    training = passes * rates.seconds_per_pass
    hours = (painting + training) / 3600
    return Cost(painting, training, None if rates.dollars_per_hour is None else hours * rates.dollars_per_hour)


def memory_of(recipe: Recipe, sizes: Sizes) -> int:
    """Bytes that a training holds at least: the teacher, the student, and of what it learns the gradient, Adam's two
    moments and the moving average, if there is one. What the networks keep between their layers comes on top."""
    copies = 3 + (recipe.training.ema_decay > 0)
    return sizes.teacher + sizes.student + copies * sizes.learned


def disk_of(recipe: Recipe, sizes: Sizes, num_images: int) -> int:
    """Bytes of the set, its latents, the checkpoints that are kept, the student and its model file."""
    pictures = num_images * (_OVERHEAD * sizes.image + sizes.latent)
    return round(pictures + checkpoints_of(recipe, sizes.student, sizes.learned) + 2 * sizes.student + sizes.vae)


def checkpoints_of(recipe: Recipe, student: int, learned: int) -> int:
    """Bytes of the checkpoints that are kept, and of one more, for one is written before one goes.

    Args:
        recipe: how it is trained.
        student: bytes of all its weights.
        learned: bytes of those that are trained.
    """
    networks = 1 + (recipe.training.ema_decay > 0)  # the student, its average
    return (recipe.training.keep_checkpoints + 1) * (networks * student + 2 * learned)


def run_costs(
    teacher: "Teacher", recipe: Recipe, rates: Rates, examples: "Sequence[Example]", num_images: int
) -> list[str]:
    """What the full run takes, here and on named devices, in lines for a person.

    Args:
        teacher: who paints and teaches.
        recipe: its scenes completed by the teacher's own sizes.
        rates: as measured on this device.
        examples: images of the set, or like it.
        num_images: of the set.
    """
    sizes, training = _sizes(teacher, recipe, examples), recipe.training
    image_size = examples[0].image.shape[0]
    num_inference_steps = recipe.scenes.num_inference_steps if recipe.scenes is not None else 0
    assert num_inference_steps is not None, "completed by the teacher's own"
    here = cost_of(recipe, rates)
    price = "" if here.dollars is None else f", {here.dollars:.0f} dollars at {rates.dollars_per_hour:g} an hour"
    lines = [
        f"the full run: {num_images} images, {training.steps} steps of {training.batch_size}",
        f"here ({teacher.device}): {_both(here)}, by the rates of this preview{price}",
        f"memory: {_gigabytes(memory_of(recipe, sizes))} for the weights of teacher and student in training, and "
        f"what the networks keep between their layers on top; this preview took {_peak()} at most",
        f"disk: {_gigabytes(disk_of(recipe, sizes, num_images))}",
    ]
    if not FULL_SIZE[0] < sum(p.numel() for p in teacher.network.parameters()) < FULL_SIZE[1]:
        return [*lines, "named devices: nothing is assumed of them for a teacher of this size"]
    for device in NAMED_DEVICES:
        there = cost_of(recipe, device.rates(image_size, num_inference_steps))
        dollars = "" if there.dollars is None else f", {there.dollars:.0f} dollars"
        lines.append(f"{device.name}: {_both(there)}{dollars}. Assumed, not run: {device.assumption}")
    return lines


def _sizes(teacher: "Teacher", recipe: Recipe, examples: "Sequence[Example]") -> Sizes:
    from distill.students import num_weights
    from synth.images import png_bytes

    def parameters(module: Any) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    parts = [part for part in teacher.pipeline.components.values() if hasattr(part, "parameters")]
    height, width, _ = examples[0].image.shape
    factor = teacher.vae_scale_factor
    prompts = {example.edit: example.prompt for example in examples}
    num_all, num_learned = num_weights(teacher, prompts, recipe.training)
    return Sizes(
        image=sum(len(png_bytes(example.pil_image)) for example in examples) / len(examples),
        latent=4 * teacher.latent_channels * (height // factor) * (width // factor),
        teacher=sum(p.numel() * p.element_size() for part in parts for p in part.parameters()),
        student=4 * num_all,
        learned=4 * num_learned,
        vae=4 * parameters(teacher.vae),
    )


def _peak() -> str:
    """What this process has held at most."""
    import torch

    from synth.memory import peak_memory_bytes

    if torch.cuda.is_available():
        return f"{_gigabytes(peak_memory_bytes('cuda'))} of the GPU's memory"
    peak = peak_memory_bytes("cpu")
    return _gigabytes(peak) if peak else "an amount that this system does not report"


def _both(cost: Cost) -> str:
    painting = f"{_duration(cost.painting_seconds)} to paint, " if cost.painting_seconds else ""
    return f"{painting}{_duration(cost.training_seconds)} to train"


def _duration(seconds: float) -> str:
    """For a person: "45 s", "12 min", "3.5 h", "2.1 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{timedelta(seconds=seconds) / timedelta(days=1):.1f} days"


def _gigabytes(num_bytes: float) -> str:
    """For a person: "0.35 GB"."""
    return f"{num_bytes / 1e9:.2g} GB" if num_bytes < 1e10 else f"{num_bytes / 1e9:.0f} GB"


def _passes_per_image(num_edits: int) -> int:
    return 2 + 5 * num_edits
