"""DatasetBuilder: every image is its own, whoever is painted beside it."""

from typing import Any

import numpy as np
import pytest
import torch
from agreement import assert_same_pixels

from synth.dataset.generate import completed
from synth.dataset.generate import paint as paint_batch
from synth.dataset.prompts import Template
from synth.errors import TeacherError
from synth.settings import SceneSettings
from synth.teacher.teacher import Teacher

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
    assert_same_pixels(together[3], alone[0])
    assert np.abs(together[3].astype(int) - together[4]).max() > 10
    assert alone[0].shape == (64, 64, 3) and alone[0].dtype == np.uint8


@pytest.mark.parametrize("tiny", ["tiny_teacher", "tiny_v_teacher", "tiny_xl_teacher", "tiny_3_teacher"])
def test_an_image_is_the_pipeline_s_own(tiny: str, request: pytest.FixtureRequest) -> None:
    teacher: Teacher = request.getfixturevalue(tiny)
    scene = Template(scenes()).scene(0)
    expected = teacher.pipeline(
        [scene.prompt],
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(scene.seed),
    ).images[0]
    assert_same_pixels(paint(teacher, [0])[0], expected)


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


def test_what_the_teacher_cannot_take(tiny_teacher: Teacher, tiny_3_teacher: Teacher) -> None:
    with pytest.raises(TeacherError, match="multiples of 16 pixels, and these are 72 x 72"):
        paint(tiny_3_teacher, [0], image_size=72)
    with pytest.raises(TeacherError, match="has 78 tokens"):
        paint(tiny_teacher, [0], negative_prompt="sofa " * 76)


class Memory:
    """A device that holds the network's activations for so many images and no more: it stands before the network
    and raises what CUDA would raise. It remembers the noise that each call began with."""

    def __init__(self, teacher: Teacher, most: int) -> None:
        self.most, self.begun, self.noise = most, 0, list[torch.Tensor]()
        self._first = None
        self._hook = teacher.network.register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(self, _: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        latents = named["hidden_states"] if "hidden_states" in named else inputs[0]
        timestep = float((named["timestep"] if "timestep" in named else inputs[1]).flatten()[0])
        self._first = self._first or timestep
        if timestep == self._first:
            self.begun += 1
        if len(latents) > 2 * self.most:  # two passes an image
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if timestep == self._first:
            self.noise += latents[: len(latents) // 2].clone()

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


@pytest.mark.parametrize("tiny", ["tiny_teacher", "tiny_xl_teacher", "tiny_3_teacher"])
def test_out_of_memory_halves_the_batch_and_moves_no_noise(
    tiny: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    shared: Teacher = request.getfixturevalue(tiny)
    teacher = Teacher(shared.pipeline, "tiny", shared.fingerprint, shared.defaults)
    with Memory(teacher, most=7) as enough:
        expected = paint(teacher, [0, 1, 2, 3, 4, 5, 6], batch_size=7)
    assert enough.begun == 1 and not capsys.readouterr().out
    with Memory(teacher, most=3) as short:
        pictures = paint(teacher, [0, 1, 2, 3, 4, 5, 6], batch_size=7)
        again = paint(teacher, [5, 6], batch_size=7)
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "out of memory with 7 images at once: painting 4 at a time",
        "out of memory with 4 images at once: painting 2 at a time",
    ]
    assert short.begun == 2 + 4 + 1  # two in vain; 2, 2, 2, 1 of seven; and it is not tried again
    for index, noise in enumerate(enough.noise):
        assert torch.equal(short.noise[index], noise)
        assert_same_pixels(pictures[index], expected[index])
    assert torch.equal(short.noise[7], short.noise[6])  # the last scene fills up its part
    assert_same_pixels(again[0], paint(teacher, [5], batch_size=7)[0])


def test_a_single_image_that_does_not_fit(tiny_teacher: Teacher) -> None:
    teacher = Teacher(tiny_teacher.pipeline, "tiny", tiny_teacher.fingerprint, tiny_teacher.defaults)
    with (
        Memory(teacher, most=0),
        pytest.raises(TeacherError, match="out of memory with a single image of 64 pixels"),
    ):
        paint(teacher, [0, 1], batch_size=2)
