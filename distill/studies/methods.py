"""What the benchmark compares: optimizations by a score, SDEdit, and two baselines that bound the metrics.

Each method is a callable: a teacher and examples in, images out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distill.evaluation.examples import Example
from distill.settings import EditSettings
from distill.studies.study import trajectory
from distill.zero_shot import compose, working_pixels
from synth.pixels import to_float, to_uint8
from synth.seeds import derive_seed
from synth.teacher.teacher import Teacher

CALLS = 800
"""Network calls that an optimization may spend on an image: 200 iterations of DDS, 400 of SDS."""
CALLS_OF = {"dds": 4, "sds": 2, "regularized-sds": 2}
"""Network calls of an iteration."""


@dataclass(frozen=True)
class Optimized:
    """An optimization by `distill.zero_shot`."""

    settings: EditSettings

    @property
    def calls(self) -> int:
        """Network calls an image."""
        return self.settings.iterations * CALLS_OF[self.settings.method]

    def __call__(self, teacher: Teacher, examples: Sequence[Example]) -> list[NDArray[np.uint8]]:
        """Edit the images; returns uint8 (H, W, 3) each."""
        last = self.settings.iterations
        return trajectory(teacher, examples, self.settings, [last])[last]


@dataclass(frozen=True)
class SDEdit:
    """Noise the image partly, and denoise it with the target text (Meng et al. 2022).

    It is diffusers' own image-to-image pipeline; the change is laid onto the image as for all methods.
    """

    strength: float
    guidance_scale: float
    num_inference_steps: int = 50

    @property
    def calls(self) -> int:
        """Network calls an image."""
        return 2 * int(self.strength * self.num_inference_steps)

    def __call__(self, teacher: Teacher, examples: Sequence[Example]) -> list[NDArray[np.uint8]]:
        """Edit the images; returns uint8 (H, W, 3) each."""
        from diffusers import AutoPipelineForImage2Image

        pipeline: Any = AutoPipelineForImage2Image.from_pipe(teacher.pipeline)
        pipeline.set_progress_bar_config(disable=True)
        images = [example.pil_image for example in examples]
        x = working_pixels(teacher, images)  # (N, 3, H, W)
        seeds = [derive_seed("sdedit", place) for place in range(len(examples))]
        painted = pipeline(
            [example.prompt for example in examples],
            image=[Image.fromarray(pixels) for pixels in to_uint8(x)],
            strength=self.strength,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="latent",
        ).images
        z_hat = teacher.encode(x).float()  # (N, C, h, w)
        return [np.asarray(image) for image in compose(teacher, images, x, z_hat, painted.float())]


@dataclass(frozen=True)
class DoNothing:
    """The input itself."""

    calls = 0

    def __call__(self, teacher: Teacher, examples: Sequence[Example]) -> list[NDArray[np.uint8]]:
        """Return the images as they are."""
        return [example.image for example in examples]


@dataclass(frozen=True)
class VAECeiling:
    """The truth through the teacher's VAE: what nothing that only decodes a latent can be expected to pass."""

    calls = 0

    def __call__(self, teacher: Teacher, examples: Sequence[Example]) -> list[NDArray[np.uint8]]:
        """Encode and decode the truths; returns uint8 (H, W, 3) each."""
        truths = np.stack([example.truth for example in examples if example.truth is not None])
        return list(to_uint8(teacher.decode(teacher.encode(to_float(torch.from_numpy(truths))))))


Method = Optimized | SDEdit | DoNothing | VAECeiling


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
    "VAE ceiling": VAECeiling(),
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
"""Each method at the best of its grid by PSNR over all, as the sweep found it on the shipped miniature."""


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
