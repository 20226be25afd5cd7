"""Scenes to images: the teacher paints through its own diffusers pipeline, each scene from its own generator."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from synth.dataset.prompts import Scene
from synth.errors import TeacherError
from synth.settings import SceneSettings
from synth.teacher.teacher import Teacher

Picture = Image.Image | None
"""None where the teacher's safety checker blacked it out."""


def completed(settings: SceneSettings, teacher: Teacher) -> SceneSettings:
    """The settings with the teacher's defaults wherever they leave the choice to it."""
    defaults = teacher.defaults
    return settings.model_copy(
        update={
            "image_size": settings.image_size or defaults.image_size,
            "num_inference_steps": settings.num_inference_steps or defaults.num_inference_steps,
            "guidance_scale": settings.guidance_scale or defaults.guidance_scale,
        }
    )


def paint(teacher: Teacher, settings: SceneSettings, scenes: Sequence[Scene]) -> list[Picture]:
    """Paint one batch: at most `settings.batch_size` scenes.

    The batch is always full (a short one is padded and the padding thrown away), and every image has a generator of
    its own, seeded on the CPU. So an image depends on its scene and on the settings, never on which others were
    asked for, on its device's own random numbers, or on how far a run had come.

    A batch that does not fit into memory is painted in halves, or quarters, and so are all that follow. The noise of
    every image stays what it was; the last bit of a pixel may not.

    Returns:
        For each scene its RGB image of `image_size` squared, or None where the teacher's safety checker blacked it
        out.

    Raises:
        TeacherError: when the teacher's numbers overflow, when it takes no images of this size or cannot read the
            negative prompt to its end, or when not even one image fits into memory.
    """
    assert settings.image_size is not None
    teacher.check_size(settings.image_size, settings.image_size)
    teacher.check_prompts(sorted({scene.negative_prompt for scene in scenes}))
    at_once = min(settings.batch_size, teacher.max_batch_size or settings.batch_size)
    while (pictures := _paint(teacher, settings, scenes, at_once)) is None:
        # Out here the exception is gone, and with it the frames that held on to what had been allocated.
        if at_once == 1:
            raise TeacherError(
                f"{teacher.name} runs out of memory with a single image of {settings.image_size} pixels on "
                f"{teacher.device}: lower scenes.image_size, or set teacher.dtype=bfloat16"
            )
        tqdm.write(f"out of memory with {at_once} images at once: painting {-(-at_once // 2)} at a time")
        at_once = teacher.max_batch_size = -(-at_once // 2)
        teacher.pipeline.vae.to(teacher.dtype)  # XL's pipeline may have stopped while it was in float32
        if teacher.device.type == "cuda":
            torch.cuda.empty_cache()
    return pictures


def _paint(teacher: Teacher, settings: SceneSettings, scenes: Sequence[Scene], at_once: int) -> list[Picture] | None:
    """Some images at a time, each time full; None if that is more than the memory holds."""
    pictures: list[Picture] = []
    try:
        for start in range(0, len(scenes), at_once):
            pictures += _call(teacher, settings, scenes[start : start + at_once], at_once)
    except torch.OutOfMemoryError:
        return None
    return pictures


def _call(teacher: Teacher, settings: SceneSettings, scenes: Sequence[Scene], size: int) -> list[Picture]:
    """One call of the pipeline, padded to `size` images."""
    padded = [*scenes, *[scenes[-1]] * (size - len(scenes))]
    negative_prompts = [scene.negative_prompt for scene in padded]
    output: Any = teacher.pipeline(
        [scene.prompt for scene in padded],
        # Without one the pipeline takes its model's own null text, which is not always that of an empty prompt.
        negative_prompt=negative_prompts if any(negative_prompts) else None,
        height=settings.image_size,
        width=settings.image_size,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(scene.seed) for scene in padded],
        output_type="np",
    )
    images = output.images[: len(scenes)]  # float (n, H, W, 3) in [0, 1]
    if not np.isfinite(images).all():
        raise TeacherError(
            f"{teacher.name} overflowed in {str(teacher.dtype).removeprefix('torch.')}: "
            "set teacher.dtype=float32 or bfloat16"
        )
    flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(padded)
    pictures = teacher.pipeline.numpy_to_pil(images)
    return [None if flag else picture for picture, flag in zip(pictures, flagged, strict=False)]
