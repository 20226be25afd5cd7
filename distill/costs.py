"""What painting and training compute, in passes of the networks and in FLOPs, and how long known devices take for it.

With K edits an image, a training step takes 2 + 2 K passes of the teacher an image, since all edits share one
reference branch, and K passes of the student forward and backward, which cost about three passes each. There is no
torch here: `distill.training.flops` counts.
"""

from dataclasses import dataclass

from distill.settings import TrainingSettings, edits_of_an_image

TERA = 1e12


@dataclass(frozen=True)
class Flops:
    """FLOPs of one pass for one image; a multiplication and an addition are two."""

    teacher: float
    """Of the teacher's network."""
    student: float
    """Of the student."""
    decode: float
    """Of the VAE's decoder."""

    def of_painting(self, num_inference_steps: int) -> float:
        """Of one image, by steps with the prompt and without."""
        return 2 * num_inference_steps * self.teacher + self.decode

    def of_training(self, settings: TrainingSettings, num_edits: int) -> float:
        """Of a whole training on a recipe's `num_edits` edits."""
        passes = passes_per_image(settings, num_edits, self.student / self.teacher)
        return settings.steps * settings.batch_size * passes * self.teacher


STABLE_DIFFUSION_15 = Flops(teacher=0.803 * TERA, student=0.803 * TERA, decode=2.515 * TERA)
"""Of 1.5 at 512 px, whose student is of the same shape. `distill.training.flops` counts the same."""


@dataclass(frozen=True)
class NamedDevice:
    """A device, and the speed that is known of it."""

    name: str
    teraflops: float
    """A second, on networks such as Stable Diffusion's in a half precision."""
    dollars_per_hour: float | None
    assumption: str


_A6000_SLOWDOWN = 0.29 / 0.11  # seconds of img2img-turbo at 512 px on an A6000 and an A100, as its authors report

A100 = NamedDevice(
    "one A100", 92.0, 2.0, "92 TFLOP a second, as in diffusers' own table for such networks; 2 dollars an hour"
)
NAMED_DEVICES = (
    A100,
    NamedDevice(
        "one A6000",
        A100.teraflops / _A6000_SLOWDOWN,
        None,
        f"{_A6000_SLOWDOWN:.1f} times the time of an A100, as img2img-turbo's authors report for their network",
    ),
)
"""For teachers of full size. This project has measured none of it."""

MIN_STEP_SECONDS = 0.157
"""A training step of a full-size `unet` student on a faster card, an H200, where Python cannot start kernels fast
enough: a shorter one is not to be had, whatever the card."""


def passes_per_image(settings: TrainingSettings, num_edits: int, student: float = 1.0) -> float:
    """Count the passes of the teacher's network that a training step takes an image.

    Args:
        settings: of the training.
        num_edits: of the recipe.
        student: a pass of the student, over one of the teacher.

    Returns:
        Passes of the teacher, and as many as the student costs.
    """
    edits = edits_of_an_image(settings, num_edits)
    # The backward pass costs two forward ones; checkpointing makes the activations once more.
    return 2 + 2 * edits + (4 if settings.gradient_checkpointing else 3) * student * edits


def hours_of_training(
    device: NamedDevice, settings: TrainingSettings, num_edits: int, flops: Flops = STABLE_DIFFUSION_15
) -> float:
    """Estimate the hours that a training takes on a named device.

    Args:
        device: with its speed.
        settings: of the training.
        num_edits: of the recipe.
        flops: of its networks.
    """
    seconds = flops.of_training(settings, num_edits) / (device.teraflops * TERA)
    floor = settings.steps * MIN_STEP_SECONDS if settings.student == "unet" else 0.0
    return max(seconds, floor) / 3600
