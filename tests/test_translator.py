"""The student: nothing at first, then whatever it learned, the same after a round trip through a folder."""

from pathlib import Path

import pytest
import torch

from distill.translator import LatentTranslator
from synth.teacher import Teacher

EDITS = {"red-leather": "a red leather sofa", "blue-fabric": "a blue fabric sofa", "a-first": "a sofa"}


@pytest.fixture
def student(tiny_teacher: Teacher) -> LatentTranslator:
    return LatentTranslator.from_teacher(tiny_teacher, EDITS)


def wake(student: LatentTranslator) -> None:
    """Give the zeroed layer something to say."""
    torch.manual_seed(1)
    with torch.no_grad():
        student.unet.conv_out.weight.normal_(0, 0.1)


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (7, 16)])
def test_an_untrained_student_changes_nothing_at_any_size(student: LatentTranslator, size: tuple[int, int]) -> None:
    z_hat = torch.randn(3, student.unet.config.in_channels, *size)
    delta = student(z_hat, torch.tensor([0, 1, 2]))
    assert torch.equal(delta, torch.zeros_like(z_hat))


def test_it_starts_as_the_teacher_but_for_its_last_layer(student: LatentTranslator, tiny_teacher: Teacher) -> None:
    theirs = tiny_teacher.unet.state_dict()
    for name, weight in student.unet.state_dict().items():
        assert weight.dtype == torch.float32
        if name.startswith("conv_out"):
            assert not weight.any()
        else:
            assert torch.equal(weight, theirs[name].float())
    assert torch.equal(student.contexts, tiny_teacher.encode_prompt(list(EDITS.values())).prompt_embeds.float())
    assert all(weight.requires_grad for weight in student.parameters())
    assert not any(weight.requires_grad for weight in tiny_teacher.unet.parameters())


def test_the_copy_is_no_alias_of_the_teacher(student: LatentTranslator, tiny_teacher: Teacher) -> None:
    before = tiny_teacher.unet.conv_in.weight.clone()
    with torch.no_grad():
        student.unet.conv_in.weight.add_(1)
    assert torch.equal(tiny_teacher.unet.conv_in.weight, before)


def test_edits_differ_and_samples_do_not_see_each_other(student: LatentTranslator) -> None:
    wake(student)
    z_hat = torch.randn(1, student.unet.config.in_channels, 9, 13).repeat(3, 1, 1, 1)
    delta = student(z_hat, torch.tensor([0, 1, 0]))
    assert delta.shape == z_hat.shape
    torch.testing.assert_close(delta[0], delta[2])
    assert (delta[0] - delta[1]).abs().max() > 1e-4


def test_save_and_load(student: LatentTranslator, tmp_path: Path) -> None:
    wake(student)
    student.save_pretrained(tmp_path / "student")
    assert {path.suffix for path in (tmp_path / "student").iterdir()} == {".json", ".safetensors"}
    loaded = LatentTranslator.from_pretrained(tmp_path / "student")
    assert list(loaded.edits.items()) == list(EDITS.items())  # in their order: it is the edits' numbers
    assert loaded.config.timestep == student.config.timestep
    z_hat, edit = torch.randn(2, student.unet.config.in_channels, 9, 13), torch.tensor([1, 2])
    assert torch.equal(loaded(z_hat, edit), student(z_hat, edit))
