"""What the benchmark compares: optimizations by a score, SDEdit, and two baselines that bound the metrics.

Each method makes latents from latents, so that all become images in the same two ways: decoded, as they were
published, or as a change that is laid onto the original (`distill.composition`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distill.evaluation.examples import Example
from distill.optimization import optimize
from distill.settings import EditSettings
from distill.zero_shot import compose, working_pixels
from synth.pixels import to_uint8
from synth.seeds import derive_seed
from synth.teacher.teacher import Teacher

CALLS = 800
"""Network calls that an optimization may spend on an image: 200 iterations of DDS, 400 of SDS."""
CALLS_OF = {"dds": 4, "sds": 2, "regularized-sds": 2}
"""Network calls of an iteration."""


@dataclass(frozen=True)
class Edits:
    """What a method made of images of one size, before it is pixels again."""

    teacher: Teacher
    images: Sequence[Image.Image]
    x: Tensor
    """What was encoded of them, float (N, 3, H, W) in [-1, 1]."""
    z_hat: Tensor
    """Its latents, float32 (N, C, h, w)."""
    z: Tensor
    """The edited ones, of the same shape."""

    def decoded(self) -> list[NDArray[np.uint8]]:
        """Decode the edited latents, as methods are published; uint8 (H, W, 3) each, enlarged to the images' size."""
        decoded = [Image.fromarray(pixels) for pixels in to_uint8(self.teacher.decode(self.z))]
        size = self.images[0].size
        return [np.asarray(image.resize(size, Image.Resampling.LANCZOS)) for image in decoded]

    def composed(self) -> list[NDArray[np.uint8]]:
        """Lay the change onto the images, as this project does it; uint8 (H, W, 3) each, of their own size."""
        laid = compose(self.teacher, self.images, self.x, self.z_hat, self.z)
        return [np.asarray(image) for image in laid]


class Method(ABC):
    """A way to edit images without a training."""

    @property
    @abstractmethod
    def calls(self) -> int:
        """Network calls an image."""

    @abstractmethod
    def latents(self, teacher: Teacher, examples: Sequence[Example], x: Tensor, z_hat: Tensor) -> Tensor:
        """Edit latents.

        Args:
            teacher: the frozen model.
            examples: whose images and texts they are.
            x: what was encoded of the images, float (N, 3, H, W) in [-1, 1].
            z_hat: their latents, float32 (N, C, h, w).

        Returns:
            z, float32 (N, C, h, w).
        """

    def edit(self, teacher: Teacher, examples: Sequence[Example]) -> Edits:
        """Edit the images of examples, which are of one size."""
        images = [example.pil_image for example in examples]
        x = working_pixels(teacher, images)  # (N, 3, H, W)
        z_hat = teacher.encode(x).float()  # (N, C, h, w)
        return Edits(teacher, images, x, z_hat, self.latents(teacher, examples, x, z_hat))

    def __call__(self, teacher: Teacher, examples: Sequence[Example]) -> list[NDArray[np.uint8]]:
        """Edit the images, each by a change that is laid onto it; returns uint8 (H, W, 3) each."""
        return self.edit(teacher, examples).composed()


@dataclass(frozen=True)
class Optimized(Method):
    """An optimization by `distill.optimization`."""

    settings: EditSettings

    @property
    def calls(self) -> int:
        """Network calls an image."""
        return self.settings.iterations * CALLS_OF[self.settings.method]

    def latents(self, teacher: Teacher, examples: Sequence[Example], x: Tensor, z_hat: Tensor) -> Tensor:
        """Optimize them from the images' own towards the prompts."""
        y = teacher.encode_prompt([example.prompt for example in examples])
        y_hat = teacher.encode_prompt([example.source_prompt for example in examples])
        return optimize(teacher, z_hat, y, y_hat, self.settings)


@dataclass(frozen=True)
class SDEdit(Method):
    """Noise the image partly, and denoise it with the target text (Meng et al. 2022).

    It is diffusers' own image-to-image pipeline.
    """

    strength: float
    guidance_scale: float
    num_inference_steps: int = 50

    @property
    def calls(self) -> int:
        """Network calls an image."""
        return 2 * int(self.strength * self.num_inference_steps)

    def latents(self, teacher: Teacher, examples: Sequence[Example], x: Tensor, z_hat: Tensor) -> Tensor:
        """Paint the images anew from where noise leaves them."""
        from diffusers import AutoPipelineForImage2Image

        pipeline: Any = AutoPipelineForImage2Image.from_pipe(teacher.pipeline)
        pipeline.set_progress_bar_config(disable=True)
        seeds = [derive_seed("sdedit", place) for place in range(len(examples))]
        painted: Tensor = pipeline(
            [example.prompt for example in examples],
            image=[Image.fromarray(pixels) for pixels in to_uint8(x)],
            strength=self.strength,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="latent",
        ).images
        return painted.float()


@dataclass(frozen=True)
class DoNothing(Method):
    """The input itself; decoded, what the VAE leaves of it."""

    calls = 0

    def latents(self, teacher: Teacher, examples: Sequence[Example], x: Tensor, z_hat: Tensor) -> Tensor:
        """Return them as they are."""
        return z_hat


@dataclass(frozen=True)
class PerfectLatents(Method):
    """The latents of the truth: decoded, what the VAE allows; as a change, what the composition makes of it."""

    calls = 0

    def latents(self, teacher: Teacher, examples: Sequence[Example], x: Tensor, z_hat: Tensor) -> Tensor:
        """Encode the truths."""
        truths = [Image.fromarray(example.truth) for example in examples if example.truth is not None]
        return teacher.encode(working_pixels(teacher, truths)).float()


def _optimized(**values: Any) -> Optimized:
    settings = EditSettings(**values)
    return Optimized(settings.model_copy(update={"iterations": CALLS // CALLS_OF[settings.method]}))


GRIDS: Mapping[str, tuple[Method, ...]] = {
    "SDEdit": tuple(SDEdit(strength, omega) for strength, omega in product((0.4, 0.6, 0.8), (3.0, 7.5))),
    "SDS": tuple(
        _optimized(method="sds", learning_rate=rate, guidance_scale=omega)
        for rate, omega in product((0.5, 1.0, 2.0), (3.0, 7.5))
    ),
    "regularized SDS": tuple(
        _optimized(method="regularized-sds", learning_rate=2.0, guidance_scale=omega, lambda_id=weight)
        for weight, omega in product((0.1, 0.3, 1.0), (3.0, 7.5))
    ),
    "DDS, Adam": tuple(
        _optimized(optimizer="adam", learning_rate=rate, guidance_scale=omega)
        for rate, omega in product((0.25, 0.5, 1.0), (3.0, 7.5))
    ),
    "DDS": tuple(
        _optimized(learning_rate=rate, guidance_scale=omega) for rate, omega in product((1.0, 2.0), (2.0, 3.0, 4.5))
    ),
    "DDS, firm": tuple(
        _optimized(learning_rate=2.0, guidance_scale=omega, firm_threshold=threshold)
        for threshold, omega in product((2.0, 3.0), (3.0, 4.5, 7.5))
    ),
}
"""What the sweep tries for each method, six settings each."""

OURS = "DDS, firm"
"""The best known method: beyond the paper, small changes are undone."""

METHODS: Mapping[str, Method] = {
    "do nothing": DoNothing(),
    "perfect latents": PerfectLatents(),
    "SDEdit 0.4": SDEdit(0.4, 7.5),
    "SDEdit 0.6": SDEdit(0.6, 3.0),
    "SDEdit 0.8": SDEdit(0.8, 3.0),
    "SDS": _optimized(method="sds", learning_rate=2.0, guidance_scale=7.5),
    "regularized SDS": _optimized(method="regularized-sds", learning_rate=2.0, guidance_scale=7.5, lambda_id=0.1),
    "DDS, Adam": _optimized(optimizer="adam", learning_rate=1.0, guidance_scale=7.5),
    "DDS as published": _optimized(learning_rate=2.0, guidance_scale=7.5),
    "DDS": _optimized(learning_rate=2.0, guidance_scale=3.0),
    OURS: _optimized(learning_rate=2.0, guidance_scale=3.0, firm_threshold=2.0),
}
"""Each method at the best of its grid by PSNR over all, as a sweep found it on the shipped miniature. For firm
thresholding a later one found another, by a single image: see docs/studies.md."""


def describe(method: Method) -> str:
    """Describe a method's settings in a few words."""
    if isinstance(method, SDEdit):
        return f"strength {method.strength:g}, omega {method.guidance_scale:g}"
    if isinstance(method, Optimized):
        settings = method.settings
        extra = f", lambda_id {settings.lambda_id:g}" if settings.method == "regularized-sds" else ""
        extra += f", threshold {settings.firm_threshold:g}" if settings.firm_threshold else ""
        return (
            f"rate {settings.learning_rate:g}, omega {settings.guidance_scale:g}{extra}, "
            f"{settings.iterations} iterations"
        )
    return ""
