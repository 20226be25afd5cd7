"""Scenes to images: the teacher paints through its own diffusers pipeline, each scene from its own generator."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from synth.errors import TeacherError
from synth.prompts import Scene
from synth.settings import SceneSettings
from synth.teacher import Teacher


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


def paint(teacher: Teacher, settings: SceneSettings, scenes: Sequence[Scene]) -> list[Image.Image | None]:
    """Paint one batch: at most `settings.batch_size` scenes.

    The batch is always full (a short one is padded and the padding thrown away), and every picture has a generator of
    its own, seeded on the CPU. So a picture depends on its scene and on the settings, never on which others were
    asked for, on its device's own random numbers, or on how far a run had come.

    Returns:
        For each scene its RGB image of `image_size` squared, or None where the teacher's safety checker blacked it
        out.

    Raises:
        TeacherError: when the teacher's numbers overflow.
    """
    padded = [*scenes, *[scenes[-1]] * (settings.batch_size - len(scenes))]
    output = teacher.pipeline(
        [scene.prompt for scene in padded],
        negative_prompt=[scene.negative_prompt for scene in padded],
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
