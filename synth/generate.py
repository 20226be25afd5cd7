"""Scenes to images: the teacher paints through its own diffusers pipeline, each scene from its own generator."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from synth.errors import DatasetError, TeacherError
from synth.prompts import Scene, Template
from synth.seeds import derive_seed
from synth.settings import SceneSettings
from synth.teacher import Teacher

_ATTEMPTS = 5  # how often a picture that the safety checker blacked out is painted


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


def generate(teacher: Teacher, template: Template, indices: Sequence[int]) -> Iterator[tuple[Scene, Image.Image]]:
    """Paint the scenes of `indices`, in order.

    A batch is always full (the last one is padded and the padding thrown away), and every picture has a generator of
    its own, seeded on the CPU. So a picture depends on its scene and on the settings, never on which others were
    asked for, on its device's own random numbers, or on how far a run had come.

    A picture that the teacher's safety checker blacks out is never handed on: its batch is painted again with that
    scene's next seed, and the scene that comes back carries the seed which made its image.

    Yields:
        Each scene with its RGB image of `image_size` squared.

    Raises:
        TeacherError: for a prompt that is too long, or when the teacher's numbers overflow.
        DatasetError: for a scene whose every attempt was refused by the safety checker.
    """
    settings = completed(template.settings, teacher)
    size = settings.batch_size
    for start in range(0, len(indices), size):
        scenes = [template.scene(index) for index in indices[start : start + size]]
        teacher.check_prompts([scene.prompt for scene in scenes])
        yield from _paint_batch(teacher, settings, scenes)


def _paint_batch(
    teacher: Teacher, settings: SceneSettings, scenes: list[Scene]
) -> Iterator[tuple[Scene, Image.Image]]:
    for attempt in range(1, _ATTEMPTS + 1):
        padded = scenes + [scenes[-1]] * (settings.batch_size - len(scenes))
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
        flagged = (output.nsfw_content_detected or [False] * len(padded))[: len(scenes)]
        if not any(flagged):
            yield from zip(scenes, teacher.pipeline.numpy_to_pil(images), strict=True)
            return
        scenes = [
            replace(scene, seed=derive_seed(settings.seed, "scene", scene.index, attempt)) if flag else scene
            for scene, flag in zip(scenes, flagged, strict=True)
        ]
    refused = next(scene for scene, flag in zip(scenes, flagged, strict=True) if flag)
    raise DatasetError(
        f"the teacher's safety checker refused scene {refused.index}, {refused.prompt!r}, {_ATTEMPTS} times: "
        "reword the template"
    )
