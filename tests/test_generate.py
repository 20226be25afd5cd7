"""Painting: every image is its own, whoever is painted beside it."""

from typing import Any

import numpy as np
import pytest
import torch

from synth.errors import TeacherError
from synth.generate import completed
from synth.generate import paint as paint_batch
from synth.prompts import Template
from synth.settings import SceneSettings
from synth.teacher import Teacher

SOFAS: dict[str, Any] = {
    "template": "a {color} sofa with {wall} walls",
    "slots": {"color": ["red", "orange", "grey"], "wall": ["white", "green"]},
    "count": 7,
    "num_inference_steps": 2,
    "guidance_scale": 2.0,
    "batch_size": 2,
    "shard_size": 3,
}


def scenes(**changes: Any) -> SceneSettings:
    return SceneSettings(**{**SOFAS, **changes})


def paint(teacher: Teacher, indices: list[int], **changes: Any) -> list[np.ndarray]:
    settings = completed(scenes(**changes), teacher)
    todo = [Template(settings).scene(index) for index in indices]
    batches = [todo[start : start + settings.batch_size] for start in range(0, len(todo), settings.batch_size)]
    return [np.asarray(image) for batch in batches for image in paint_batch(teacher, settings, batch)]


def test_an_image_depends_on_its_scene_and_not_on_its_company(tiny_teacher: Teacher) -> None:
    alone = paint(tiny_teacher, [3])
    together = paint(tiny_teacher, [0, 1, 2, 3, 4])
    assert len(together) == 5
    assert np.array_equal(together[3], alone[0])
    assert not np.array_equal(together[3], together[4])
    assert alone[0].shape == (64, 64, 3) and alone[0].dtype == np.uint8


def test_an_image_is_the_pipeline_s_own(tiny_teacher: Teacher) -> None:
    scene = Template(scenes()).scene(0)
    expected = tiny_teacher.pipeline(
        [scene.prompt],
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(scene.seed),
    ).images[0]
    assert np.abs(paint(tiny_teacher, [0])[0].astype(int) - np.asarray(expected)).max() <= 1


def test_the_negative_prompt_counts(tiny_teacher: Teacher) -> None:
    assert not np.array_equal(paint(tiny_teacher, [0])[0], paint(tiny_teacher, [0], negative_prompt="grey")[0])


def test_numbers_that_overflow_are_an_error_and_no_black_image(tiny_teacher: Teacher) -> None:
    bias = tiny_teacher.vae.decoder.conv_out.bias.data
    kept = bias.clone()
    bias.fill_(torch.nan)
    try:
        with pytest.raises(TeacherError, match="overflowed in float32"):
            paint(tiny_teacher, [0])
    finally:
        bias.copy_(kept)
