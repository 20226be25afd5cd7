"""A step keeps its tensors on the teacher's device, and nothing waits for it.

The device is `meta`, whose tensors meet no others and cannot be read. What must be read on the host, the texts, is
stubbed.
"""

from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import pytest
import torch
from accelerate import PartialState
from torch import Tensor

from distill.scores import shared_source_dds
from distill.settings import TrainingSettings
from distill.students import new_student
from distill.training import memory, objective
from distill.training.objective import Objective
from distill.training.pairs import Pairs
from synth.ema import ema_step
from synth.teacher.conditioning import Conditioning
from synth.teacher.teacher import Teacher

META = torch.device("meta")
EDITS = {"red": "a red sofa", "blue": "a blue sofa", "green": "a green sofa"}


@pytest.fixture(params=["tiny_teacher", "tiny_v_teacher", "tiny_xl_teacher", "tiny_3_teacher"])
def small(request: pytest.FixtureRequest) -> Teacher:
    """A teacher whose weights are there."""
    teacher: Teacher = request.getfixturevalue(request.param)
    return teacher


@pytest.fixture
def teacher(small: Teacher, monkeypatch: pytest.MonkeyPatch) -> Teacher:
    """Its networks on the device; its texts are known before."""
    like = small.encode_prompt(["a red sofa"]).to(META)
    pipeline = deepcopy(small.pipeline)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(META)
    teacher = Teacher(pipeline, small.name, "meta", small.defaults)
    assert teacher.device == META
    monkeypatch.setattr(teacher, "encode_prompt", lambda prompts: like.expand(len(prompts)))
    monkeypatch.setattr(objective, "TextCache", Texts)
    for name in ("autocast_of", "autocast_of_score"):  # which knows no meta tensors
        monkeypatch.setattr(objective, name, lambda *_: nullcontext)
    return teacher


class Texts:
    """The cache of texts, without the encoders."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    def __call__(self, texts: list[str]) -> Conditioning:
        return self._teacher.encode_prompt(texts)


@pytest.mark.parametrize(
    "settings",
    [{"micro_batch_size": 2}, {"edits_per_image": 1, "gradient_checkpointing": True}, {"student": "compact"}],
)
def test_a_step_reads_nothing_and_mixes_no_devices(
    small: Teacher, teacher: Teacher, settings: dict[str, Any]
) -> None:
    if teacher.family.network_name != "unet" or teacher.network.config.addition_embed_type:
        settings = {"student": "compact"}
    training = TrainingSettings(batch_size=2, autocast="off", **settings)
    student = new_student(small, EDITS, training).to(META)
    shape = (4, teacher.latent_channels, 8, 8)
    pairs = Pairs(torch.randn(shape), ["a sofa"] * 4, [list(EDITS.values())] * 4)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    averages = [weight.detach().clone() for weight in student.parameters()]
    steps = Objective(teacher, student, pairs, training, shared_source_dds, PartialState(cpu=True))
    for step in range(2):
        squares = steps.backward(step, omega=3.0, lambda_id=1.0)
        optimizer.step()
        ema_step(averages, list(student.parameters()), 0.9, step)
        steps.prepare(step + 1)
        assert squares.device == META and squares.shape == (2,)
    assert all(weight.grad is not None and weight.grad.device == META for weight in student.parameters())


def test_a_tensor_of_the_cpu_would_be_found(
    small: Teacher, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "to_device", lambda tensor, device: tensor)
    training = TrainingSettings(batch_size=2, autocast="off", student="compact")
    pairs = Pairs(torch.randn((4, teacher.latent_channels, 8, 8)), ["a sofa"] * 4, [list(EDITS.values())] * 4)
    student = new_student(small, EDITS, training).to(META)
    steps = Objective(teacher, student, pairs, training, shared_source_dds, PartialState(cpu=True))
    with pytest.raises((RuntimeError, NotImplementedError)):
        steps.backward(0, omega=3.0, lambda_id=1.0)


def test_encoding_and_decoding_stay_on_the_device(teacher: Teacher) -> None:
    latents: Tensor = teacher.encode(torch.zeros(2, 3, 64, 64))
    assert latents.device == META and latents.shape == (2, teacher.latent_channels, 8, 8)
    assert teacher.decode(torch.zeros(2, teacher.latent_channels, 8, 8)).shape == (2, 3, 64, 64)
    memory.release_memory(META)
