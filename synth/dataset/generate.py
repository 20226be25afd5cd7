"""Paints scenes with the teacher's own diffusers pipeline, each scene from a generator of its own."""

import logging
from collections.abc import Iterable, Sequence
from copy import copy
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image

from synth.dataset.prompts import Scene, Template
from synth.errors import TeacherError
from synth.settings import SceneSettings
from synth.teacher.teacher import Teacher

logger = logging.getLogger(__name__)

Painting = Image.Image | None
"""None where the teacher's safety checker blacked the image out."""

Key = tuple[int, int]
"""A scene's index, and which attempt at it."""


def completed(settings: SceneSettings, teacher: Teacher) -> SceneSettings:
    """Return the settings with the teacher's defaults in place of None."""
    defaults = teacher.defaults
    return settings.model_copy(
        update={
            "image_size": settings.image_size or defaults.image_size,
            "num_inference_steps": settings.num_inference_steps or defaults.num_inference_steps,
            "guidance_scale": settings.guidance_scale or defaults.guidance_scale,
            "sampler": settings.sampler or defaults.sampler,
        }
    )


class Painter:
    """Paints the scenes of a template, each by its index and the number of its attempt.

    What is `expected` fills up batches that are not full, and is kept in `ahead` until it is asked for. An image does
    not depend on what else is in its batch, so that nothing changes but the number of batches.
    """

    def __init__(self, teacher: Teacher, settings: SceneSettings, template: Template) -> None:
        self._teacher = teacher
        self._settings = settings
        self._template = template
        self.ahead: dict[Key, Painting] = {}
        self.expected: Iterable[Key] = ()

    def paint(self, batch: Sequence[Key]) -> list[Painting]:
        """Paint at most `settings.batch_size` scenes; see `paint`.

        Raises:
            TeacherError: as `paint`, or for a prompt that the teacher cannot read.
        """
        keys = [key for key in batch if key not in self.ahead]
        if keys:
            more = (key for key in self.expected if key not in self.ahead and key not in keys)
            keys += islice(more, self._settings.batch_size - len(keys))
            scenes = [self._template.scene(index, attempt) for index, attempt in keys]
            self._teacher.check_prompts([scene.prompt for scene in scenes])
            self.ahead |= zip(keys, paint(self._teacher, self._settings, scenes), strict=True)
        return [self.ahead.pop(key) for key in batch]

    def forget(self) -> None:
        """Drop what was painted in vain."""
        self.ahead, self.expected = {}, ()


def paint(teacher: Teacher, settings: SceneSettings, scenes: Sequence[Scene]) -> list[Painting]:
    """Paint one batch of scenes.

    The batch is always full (a short one is padded, and the padding dropped), and every image has its own generator,
    seeded on the CPU. So an image depends only on its scene and the settings, not on the other scenes, the device's
    random numbers or the progress of a run.

    A batch that does not fit into memory is painted in halves, or quarters, and so are all later batches. The noise
    of an image does not change; the last bit of a pixel may.

    Args:
        teacher: the model that paints.
        settings: as `completed` returns them.
        scenes: at most `settings.batch_size`.

    Returns:
        For each scene its RGB image of `image_size` squared, or None where the teacher's safety checker blacked it
        out.

    Raises:
        TeacherError: if the teacher's numbers overflow, it does not take images of this size, it cannot read the
            whole negative prompt, or not even one image fits into memory.
    """
    assert settings.image_size is not None
    teacher.check_size(settings.image_size, settings.image_size)
    teacher.check_prompts(sorted({scene.negative_prompt for scene in scenes}))
    at_once = min(settings.batch_size, teacher.max_batch_size or settings.batch_size)
    while (images := _paint(teacher, settings, scenes, at_once)) is None:
        # Recover outside of the `except` block: the exception's frames would keep the memory allocated.
        if at_once == 1:
            raise TeacherError(
                f"{teacher.name} runs out of memory with a single image of {settings.image_size} pixels on "
                f"{teacher.device}: lower scenes.image_size, or set teacher.dtype=bfloat16"
            )
        half = -(-at_once // 2)
        logger.warning("out of memory with %d images at once: painting %d at a time", at_once, half)
        at_once = half
        teacher.max_batch_size = half  # later batches begin with what fits
        teacher.pipeline.vae.to(teacher.dtype)  # XL's pipeline decodes in float32, and may have stopped there
        if teacher.device.type == "cuda":
            torch.cuda.empty_cache()
    return images


def _paint(teacher: Teacher, settings: SceneSettings, scenes: Sequence[Scene], at_once: int) -> list[Painting] | None:
    """Paint scenes in full batches of `at_once`; return None if a batch does not fit into memory."""
    images: list[Painting] = []
    try:
        for start in range(0, len(scenes), at_once):
            images += _call(teacher, settings, scenes[start : start + at_once], at_once)
    except torch.OutOfMemoryError:
        return None
    return images


def _call(teacher: Teacher, settings: SceneSettings, scenes: Sequence[Scene], size: int) -> list[Painting]:
    """Call the pipeline once, padded to `size` images."""
    padded = [*scenes, *[scenes[-1]] * (size - len(scenes))]
    negative_prompts = [scene.negative_prompt for scene in padded]
    teacher.unpark_encoders()
    output: Any = _sampled_by(teacher, settings)(
        [scene.prompt for scene in padded],
        # None selects the model's own null prompt, which is not always the empty prompt.
        negative_prompt=negative_prompts if any(negative_prompts) else None,
        height=settings.image_size,
        width=settings.image_size,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(scene.seed) for scene in padded],
        output_type="np",
    )
    arrays = output.images[: len(scenes)]  # float (n, H, W, 3) in [0, 1]
    if not np.isfinite(arrays).all():
        raise TeacherError(
            f"{teacher.name} overflowed in {str(teacher.dtype).removeprefix('torch.')}: "
            "set teacher.dtype=float32 or bfloat16"
        )
    flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(padded)
    images = teacher.pipeline.numpy_to_pil(arrays)
    return [None if flag else image for image, flag in zip(images, flagged, strict=False)]


def _sampled_by(teacher: Teacher, settings: SceneSettings) -> Any:
    """The teacher's pipeline with the settings' sampler, over the same networks."""
    pipeline = copy(teacher.pipeline)
    pipeline.scheduler = teacher.family.scheduler(settings.sampler or teacher.defaults.sampler)
    return pipeline
