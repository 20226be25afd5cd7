"""Estimate a run's time, memory, disk and cost, from rates that were measured here or published.

With K edits an image, a training step takes 2 + 2 K passes of the teacher an image, since all edits share one
reference branch, and K passes of the student forward and backward, which cost about three passes each. That makes
2 + 5 K passes an image. One iteration of a zero-shot edit takes 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from distill.settings import edits_of_an_image, pixel_edits_of_an_image
from flows.config.schema import Recipe

if TYPE_CHECKING:
    from distill.evaluation.examples import Example
    from distill.training.footprint import Footprint
    from synth.teacher.teacher import Teacher

PASSES_OF_AN_EDIT = 4  # an image and iteration: two branches, each with and without its text
EXTRAS_FACTOR = 1.1  # on disk: the gallery and the rejects take a tenth of what the images take


@dataclass(frozen=True)
class Rates:
    """The speed of a device, for images of one size."""

    seconds_per_image: float
    """To paint one image; 0 for photographs."""
    seconds_per_pass: float
    """One pass of the teacher's network, for one latent."""
    dollars_per_hour: float | None = None


@dataclass(frozen=True)
class Sizes:
    """Sizes on disk or in memory, in bytes."""

    image: float
    """One encoded image."""
    pixels: int
    """One image without compression."""
    latent: int
    """One image's latent, in float32."""
    student: int
    """All weights of the student, in float32."""
    learned: int
    """The weights that are trained, in float32: all of the student's, except with LoRA."""
    vae: int
    """The VAE's weights in float32, which every model file holds too."""


@dataclass(frozen=True)
class Cost:
    """What a full run takes. Exporting and measuring take minutes and are not counted."""

    painting_seconds: float
    training_seconds: float
    dollars: float | None


@dataclass(frozen=True)
class NamedDevice:
    """A device with published speeds, and where these come from."""

    name: str
    images_per_second: float
    """With Stable Diffusion 1.5 at 512 px and 50 steps."""
    training_hours: float
    """For the published training: 125,000 steps of two images."""
    dollars_per_hour: float | None
    assumption: str

    def rates(self, image_size: int, num_inference_steps: int) -> Rates:
        """Scale the speeds to another image size, assuming time in proportion to the number of pixels."""
        pixels = (image_size / _PUBLISHED_SIZE) ** 2
        passes = _PUBLISHED_STEPS * _PUBLISHED_BATCH * passes_per_image(_PUBLISHED_EDITS)
        return Rates(
            pixels * num_inference_steps / _PUBLISHED_INFERENCE_STEPS / self.images_per_second,
            pixels * self.training_hours * 3600 / passes,
            self.dollars_per_hour,
        )


_PUBLISHED_SIZE = 512  # px
_PUBLISHED_INFERENCE_STEPS = 50
_PUBLISHED_STEPS = 125_000
_PUBLISHED_BATCH = 2
_PUBLISHED_EDITS = 4  # of the sofa network; the paper does not say which of its networks took 23 hours
_A6000_SLOWDOWN = 0.29 / 0.11  # seconds of img2img-turbo at 512 px on an A6000 and an A100, as its authors report

NAMED_DEVICES = (
    NamedDevice(
        "one A100",
        1.2,
        23.0,
        2.0,
        "1.2 images a second, as reported for stock diffusers; 23 hours for the published training, assumed to be of "
        "four edits; 2 dollars an hour",
    ),
    NamedDevice(
        "one A6000",
        1.2 / _A6000_SLOWDOWN,
        23.0 * _A6000_SLOWDOWN,
        None,
        f"{_A6000_SLOWDOWN:.1f} times the time of an A100, as img2img-turbo's authors report for their network",
    ),
)
"""Only for teachers of the size of Stable Diffusion 1.x and 2.x. This project has measured none of it."""

FULL_SIZE = (500_000_000, 1_200_000_000)
"""Number of parameters, from and to, for which the named devices' speeds are assumed to hold. Stable Diffusion 1.x
and 2.x have about 860 million."""


def cost_of(recipe: Recipe, rates: Rates) -> Cost:
    """Estimate what painting and training a recipe takes at these rates."""
    painting = recipe.scenes.count * rates.seconds_per_image if recipe.scenes is not None else 0.0
    num_edits = edits_of_an_image(recipe.training, len(recipe.edits))
    passes = recipe.training.steps * recipe.training.batch_size * passes_per_image(num_edits)
    training = passes * rates.seconds_per_pass
    hours = (painting + training) / 3600
    return Cost(painting, training, None if rates.dollars_per_hour is None else hours * rates.dollars_per_hour)


def disk_of(recipe: Recipe, sizes: Sizes, num_images: int) -> int:
    """Estimate the bytes of the dataset, its latents and pairs, the checkpoints, the student and its model file."""
    pairs = 0
    if recipe.pixel.size != "none":  # uncompressed: the image, and what the student makes of it
        pairs = sizes.pixels * (1 + pixel_edits_of_an_image(recipe.pixel, len(recipe.edits)))
    images = num_images * (EXTRAS_FACTOR * sizes.image + sizes.latent + pairs)
    return round(images + checkpoints_of(recipe, sizes.student, sizes.learned) + 2 * sizes.student + sizes.vae)


def checkpoints_of(recipe: Recipe, student: int, learned: int) -> int:
    """Estimate the bytes of the kept checkpoints and one more, since a new one is written before an old one goes.

    Args:
        recipe: how the student is trained.
        student: bytes of all its weights.
        learned: bytes of the weights that are trained.
    """
    networks = 1 + (recipe.training.ema_decay > 0)  # the student and its moving average
    # Adam keeps two moments of each trained weight.
    return (recipe.training.keep_checkpoints + 1) * (networks * student + 2 * learned)


def run_costs(
    teacher: "Teacher", recipe: Recipe, rates: Rates, examples: "Sequence[Example]", num_images: int
) -> list[str]:
    """Describe what the full run takes, here and on named devices.

    Args:
        teacher: paints the dataset and teaches the student.
        recipe: with scenes that the teacher's defaults have completed.
        rates: as measured on this device.
        examples: images of the dataset, or similar ones.
        num_images: in the dataset.

    Returns:
        Lines for people.
    """
    sizes = _sizes(teacher, recipe, examples)
    training = recipe.training
    image_size = examples[0].image.shape[0]
    num_inference_steps = recipe.scenes.num_inference_steps if recipe.scenes is not None else 0
    assert num_inference_steps is not None, "the teacher's defaults have completed the scenes"
    counted = footprint_of(teacher, recipe, image_size)
    here = cost_of(recipe, rates)
    price = "" if here.dollars is None else f", {here.dollars:.0f} dollars at {rates.dollars_per_hour:g} an hour"
    lines = [
        f"the full run: {num_images} images, {training.steps} steps of {training.batch_size}",
        f"here ({teacher.device}): {_times(here)}, at the speed of this preview{price}",
        f"memory: {_gigabytes(counted.total)} in training, at most; this preview took at most {_peak_memory()}",
        f"disk: {_gigabytes(disk_of(recipe, sizes, num_images))}",
    ]
    if not FULL_SIZE[0] < sum(p.numel() for p in teacher.network.parameters()) < FULL_SIZE[1]:
        return [*lines, "named devices: no published speeds for a teacher of this size"]
    for device in NAMED_DEVICES:
        there = cost_of(recipe, device.rates(image_size, num_inference_steps))
        dollars = "" if there.dollars is None else f", {there.dollars:.0f} dollars"
        lines.append(f"{device.name}: {_times(there)}{dollars}. Assumed, not measured: {device.assumption}")
    return lines


def _sizes(teacher: "Teacher", recipe: Recipe, examples: "Sequence[Example]") -> Sizes:
    from distill.students import num_weights
    from synth.images.encoding import png_bytes

    def parameters(module: Any) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    height, width, _ = examples[0].image.shape
    factor = teacher.vae_scale_factor
    prompts = {example.edit: example.prompt for example in examples}
    num_all, num_learned = num_weights(teacher, prompts, recipe.training)
    return Sizes(
        image=sum(len(png_bytes(example.pil_image)) for example in examples) / len(examples),
        pixels=3 * height * width,
        latent=4 * teacher.latent_channels * (height // factor) * (width // factor),
        student=4 * num_all,
        learned=4 * num_learned,
        vae=4 * parameters(teacher.vae),
    )


def footprint_of(teacher: "Teacher", recipe: Recipe, image_size: int) -> "Footprint":
    """Count the memory of a training's process; see `distill.training.footprint`."""
    from distill.training.footprint import footprint
    from synth.teacher.hub import find

    model = find(recipe.teacher.id, recipe.teacher.revision)
    edits, on_gpu = dict.fromkeys(recipe.edits, ""), teacher.device.type == "cuda"
    num = recipe.operations.processes
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


def passes_per_image(num_edits: int) -> int:
    """Passes of the network that a training step takes an image: of the teacher, and as many as the student costs."""
    return 2 + 5 * num_edits
