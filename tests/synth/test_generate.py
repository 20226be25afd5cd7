"""Painting: an image depends only on its scene and the settings."""

from copy import copy
from typing import Any

import numpy as np
import pytest
import torch
from agreement import assert_same_pixels
from diffusers import DPMSolverMultistepScheduler
from small_datasets import scenes, synth_log

from synth.dataset.building import fingerprint
from synth.dataset.generate import completed
from synth.dataset.generate import paint as paint_batch
from synth.dataset.prompts import Template
from synth.errors import TeacherError
from synth.teacher.teacher import Teacher

__all__ = ["synth_log"]  # a fixture


def paint(teacher: Teacher, indices: list[int], **overrides: Any) -> list[np.ndarray]:
    settings = completed(scenes(**overrides), teacher)
    todo = [Template(settings).scene(index) for index in indices]
    batches = [todo[start : start + settings.batch_size] for start in range(0, len(todo), settings.batch_size)]
    return [np.asarray(image) for batch in batches for image in paint_batch(teacher, settings, batch)]


def test_an_image_does_not_depend_on_its_batch(tiny_teacher: Teacher) -> None:
    single = paint(tiny_teacher, [3])
    together = paint(tiny_teacher, [0, 1, 2, 3, 4])
    assert len(together) == 5
    assert_same_pixels(together[3], single[0])
    assert np.abs(together[3].astype(int) - together[4]).max() > 10
    assert single[0].shape == (64, 64, 3) and single[0].dtype == np.uint8


@pytest.mark.parametrize("tiny", ["tiny_teacher", "tiny_v_teacher", "tiny_xl_teacher", "tiny_3_teacher"])
def test_images_equal_those_of_the_plain_pipeline(tiny: str, request: pytest.FixtureRequest) -> None:
    teacher: Teacher = request.getfixturevalue(tiny)
    scene = Template(scenes()).scene(0)
    pipeline = copy(teacher.pipeline)
    if tiny in ("tiny_teacher", "tiny_v_teacher"):  # 1.x and 2.x: DPM-Solver++ 2M, without Karras' sigmas
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
        assert (
            pipeline.scheduler.config.algorithm_type == "dpmsolver++" and pipeline.scheduler.config.solver_order == 2
        )
        assert not pipeline.scheduler.config.use_karras_sigmas
    expected = pipeline(
        [scene.prompt],
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(scene.seed),
    ).images[0]
    assert_same_pixels(paint(teacher, [0])[0], expected)


def test_the_sampler_is_a_setting(tiny_teacher: Teacher, tiny_xl_teacher: Teacher, tiny_3_teacher: Teacher) -> None:
    before = tiny_teacher.pipeline.scheduler
    scene = Template(scenes()).scene(0)
    expected = tiny_teacher.pipeline(
        [scene.prompt],
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(scene.seed),
    ).images[0]
    assert_same_pixels(paint(tiny_teacher, [0], sampler="own")[0], expected)
    assert not np.array_equal(paint(tiny_teacher, [0])[0], np.asarray(expected))
    assert not np.array_equal(paint(tiny_xl_teacher, [0], sampler="dpm++")[0], paint(tiny_xl_teacher, [0])[0])
    assert tiny_teacher.pipeline.scheduler is before, "a painting leaves the teacher as it was"
    with pytest.raises(TeacherError, match=r"its own sampler: set scenes\.sampler=own"):
        paint(tiny_3_teacher, [0], sampler="dpm++")
    defaults = [completed(scenes(), each) for each in (tiny_teacher, tiny_xl_teacher, tiny_3_teacher)]
    assert [each.sampler for each in defaults] == ["dpm++", "own", "own"]


def test_the_sampler_is_in_a_set_s_identity_unless_own(tiny_teacher: Teacher) -> None:
    assert fingerprint(tiny_teacher, scenes())["sampler"] == "dpm++"
    assert "sampler" not in fingerprint(tiny_teacher, scenes(sampler="own")), "as sets were painted before"


def test_the_negative_prompt_has_an_effect(tiny_teacher: Teacher) -> None:
    assert not np.array_equal(paint(tiny_teacher, [0])[0], paint(tiny_teacher, [0], negative_prompt="grey")[0])


def test_an_overflow_is_an_error(tiny_teacher: Teacher) -> None:
    """Not a black image."""
    bias = tiny_teacher.vae.decoder.conv_out.bias.data
    original = bias.clone()
    bias.fill_(torch.nan)
    try:
        with pytest.raises(TeacherError, match="overflowed in float32"):
            paint(tiny_teacher, [0])
    finally:
        bias.copy_(original)


def test_sizes_and_prompts_beyond_the_teacher_are_refused(tiny_teacher: Teacher, tiny_3_teacher: Teacher) -> None:
    with pytest.raises(TeacherError, match="multiples of 16 pixels, and these are 72 x 72"):
        paint(tiny_3_teacher, [0], image_size=72)
    with pytest.raises(TeacherError, match="has 78 tokens"):
        paint(tiny_teacher, [0], negative_prompt="sofa " * 76)


class Memory:
    """A device whose memory holds the activations of at most `max_images` images.

    It hooks into the network, raises the error that CUDA would raise, and records the first noise of each call.
    """

    def __init__(self, teacher: Teacher, max_images: int) -> None:
        self.max_images = max_images
        self.num_calls = 0
        self.noise: list[torch.Tensor] = []
        self._first = None
        self._hook = teacher.network.register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(self, _: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        latents = named["hidden_states"] if "hidden_states" in named else inputs[0]
        timestep = float((named["timestep"] if "timestep" in named else inputs[1]).flatten()[0])
        self._first = self._first or timestep
        if timestep == self._first:
            self.num_calls += 1
        if len(latents) > 2 * self.max_images:  # guidance takes two passes per image
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if timestep == self._first:
            self.noise += latents[: len(latents) // 2].clone()

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


@pytest.mark.parametrize("tiny", ["tiny_teacher", "tiny_xl_teacher", "tiny_3_teacher"])
def test_out_of_memory_halves_the_batch(
    tiny: str, request: pytest.FixtureRequest, synth_log: pytest.LogCaptureFixture
) -> None:
    """And no image's noise changes."""
    shared: Teacher = request.getfixturevalue(tiny)
    teacher = Teacher(shared.pipeline, "tiny", shared.fingerprint, shared.defaults)
    with Memory(teacher, max_images=7) as enough:
        expected = paint(teacher, [0, 1, 2, 3, 4, 5, 6], batch_size=7)
    assert enough.num_calls == 1 and not synth_log.messages
    with Memory(teacher, max_images=3) as short:
        images = paint(teacher, [0, 1, 2, 3, 4, 5, 6], batch_size=7)
        again = paint(teacher, [5, 6], batch_size=7)
    assert synth_log.messages == [
        "out of memory with 7 images at once: painting 4 at a time",
        "out of memory with 4 images at once: painting 2 at a time",
    ]
    assert short.num_calls == 2 + 4 + 1  # two that fail; 2, 2, 2, 1 of seven; then no larger batch is tried
    for index, noise in enumerate(enough.noise):
        assert torch.equal(short.noise[index], noise)
        assert_same_pixels(images[index], expected[index])
    assert torch.equal(short.noise[7], short.noise[6])  # the last scene pads its batch
    assert_same_pixels(again[0], paint(teacher, [5], batch_size=7)[0])


def test_an_image_that_does_not_fit_is_an_error(tiny_teacher: Teacher) -> None:
    teacher = Teacher(tiny_teacher.pipeline, "tiny", tiny_teacher.fingerprint, tiny_teacher.defaults)
    with (
        Memory(teacher, max_images=0),
        pytest.raises(TeacherError, match="out of memory with a single image of 64 pixels"),
    ):
        paint(teacher, [0, 1], batch_size=2)
