"""The students: nothing at first, then whatever they learned, the same after a round trip through a folder."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from agreement import assert_agrees

from distill.settings import TrainingSettings
from distill.students import (
    STUDENT_KINDS,
    CompactStudent,
    Student,
    TeacherShape,
    UNetStudent,
    load_student,
    new_student,
)
from distill.training.untrained import num_weights
from synth.teacher.teacher import Teacher

EDITS = {"red-leather": "a red leather sofa", "blue-fabric": "a blue fabric sofa", "a-first": "a sofa"}

KINDS = {"unet": {}, "lora": {"lora_rank": 2}, "compact": {"student": "compact"}}


def make(kind: str, teacher: Teacher, seed: int = 0) -> Student:
    return new_student(teacher, EDITS, TrainingSettings(preset="short", seed=seed, **KINDS[kind]))


@pytest.fixture(params=list(KINDS))
def student(request: pytest.FixtureRequest, tiny_teacher: Teacher) -> Student:
    return make(request.param, tiny_teacher)


def wake(student: Student) -> None:
    """Give what starts at zero something to say."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in student.parameters():
            if weight.requires_grad and not weight.any():
                weight.normal_(0, 0.1)
        student.eval()


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (7, 16), (1, 5)])
def test_an_untrained_student_changes_nothing_at_any_size(student: Student, size: tuple[int, int]) -> None:
    z_hat = torch.randn(3, 4, *size)
    delta = student(z_hat, torch.tensor([0, 1, 2]))
    assert torch.equal(delta, torch.zeros_like(z_hat))


def test_a_unet_starts_as_the_teacher_but_for_its_last_layer(tiny_teacher: Teacher) -> None:
    student, theirs = make("unet", tiny_teacher), tiny_teacher.unet.state_dict()
    assert isinstance(student, UNetStudent)
    for name, weight in student.unet.state_dict().items():
        assert weight.dtype == torch.float32
        if name.startswith("conv_out"):
            assert not weight.any()
        else:
            assert torch.equal(weight, theirs[name].float())
    assert torch.equal(student.contexts, tiny_teacher.encode_prompt(list(EDITS.values())).prompt_embeds.float())
    assert all(weight.requires_grad for weight in student.parameters())
    assert not any(weight.requires_grad for weight in tiny_teacher.unet.parameters())


def test_the_copy_is_not_an_alias_of_the_teacher(tiny_teacher: Teacher) -> None:
    student, before = make("unet", tiny_teacher), tiny_teacher.unet.conv_in.weight.clone()
    with torch.no_grad():
        student.unet.conv_in.weight.add_(1)
    assert torch.equal(tiny_teacher.unet.conv_in.weight, before)


def test_edits_differ_and_samples_do_not_see_each_other(student: Student) -> None:
    wake(student)
    z_hat = torch.randn(1, 4, 9, 13).repeat(3, 1, 1, 1)
    delta = student(z_hat, torch.tensor([0, 1, 0]))
    assert delta.shape == z_hat.shape
    assert_agrees(delta[0], delta[2])
    assert (delta[0] - delta[1]).abs().max() > 0.01 * delta.abs().max()


def test_save_and_load(student: Student, tmp_path: Path) -> None:
    wake(student)
    student.save_pretrained(tmp_path / "student")
    assert {path.suffix for path in (tmp_path / "student").iterdir()} == {".json", ".safetensors"}
    loaded = load_student(tmp_path / "student")
    assert type(loaded) is type(student)
    assert list(loaded.edits.items()) == list(EDITS.items())  # in their order: it is the edits' numbers
    assert loaded.config.get("timestep") == student.config.get("timestep")
    z_hat, edit = torch.randn(2, 4, 9, 13), torch.tensor([1, 2])
    assert_agrees(loaded(z_hat, edit), student(z_hat, edit))
    saved = loaded.state_dict()
    assert all(torch.equal(weight, saved[name]) for name, weight in student.state_dict().items())


def test_the_same_seed_gives_the_same_student(tiny_teacher: Teacher) -> None:
    """And torch's own random state stays as it was."""
    before = torch.random.get_rng_state()
    for kind in KINDS:
        one, same, other = (make(kind, tiny_teacher, seed).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(weight, same[name]) for name, weight in one.items())
        assert kind == "unet" or any(not torch.equal(weight, other[name]) for name, weight in one.items())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_lora_learns_little_and_merges_into_a_plain_student(tiny_teacher: Teacher, tmp_path: Path) -> None:
    student = make("lora", tiny_teacher)
    learned = {name for name, weight in student.named_parameters() if weight.requires_grad}
    others = {name for name in learned if "lora_" not in name}
    assert others == {"contexts", "unet.conv_out.weight", "unet.conv_out.bias"} and len(learned) > 20
    assert sum(w.numel() for w in student.parameters() if w.requires_grad) < 0.6 * sum(
        weight.numel() for weight in student.parameters()
    )  # the real thing is a thousand times wider than this rank
    wake(student)
    plain = student.merged()
    z_hat, edit = torch.randn(2, 4, 9, 13), torch.tensor([1, 2])
    assert_agrees(plain(z_hat, edit), student(z_hat, edit))
    assert not any("lora" in name for name in plain.state_dict())
    assert any("lora" in name for name in student.state_dict()), "the student itself goes on training"
    plain.save_pretrained(tmp_path)
    saved = load_student(tmp_path).state_dict()
    assert all(torch.equal(weight, saved[name]) for name, weight in plain.state_dict().items())


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"student": "compact"}], ids=["unet", "lora", "compact"])
def test_weights_are_counted_before_there_are_any(tiny_teacher: Teacher, changes: dict[str, Any]) -> None:
    settings = TrainingSettings(**changes)
    student = new_student(tiny_teacher, EDITS, settings)
    learned = [weight.numel() for weight in student.parameters() if weight.requires_grad]
    everything = [weight.numel() for weight in student.parameters()]
    assert num_weights(tiny_teacher, EDITS, settings) == (sum(everything), sum(learned))


@pytest.mark.parametrize("changes", list(KINDS.values()), ids=list(KINDS))
def test_a_shape_gives_the_student_that_is_trained(tiny_teacher: Teacher, changes: dict[str, Any]) -> None:
    """Both come from one choice of the kind, for each kind that a recipe may ask for."""
    settings = TrainingSettings(preset="short", **changes)
    assert set(STUDENT_KINDS) == set(get_args(TrainingSettings.model_fields["student"].annotation))
    _, tokens, width = tiny_teacher.encode_prompt([""]).prompt_embeds.shape
    config, network_class = tiny_teacher.network.config, tiny_teacher.family.network_class
    shape = TeacherShape(tiny_teacher.name, network_class, config, (tokens, width))
    with torch.device("meta"):
        counted = STUDENT_KINDS[settings.student].from_shape(shape, EDITS, settings)
    trained = new_student(tiny_teacher, EDITS, settings)
    assert type(counted) is type(trained) is STUDENT_KINDS[settings.student]
    assert dict(counted.config) == dict(trained.config)
    for name, weight in trained.state_dict().items():
        assert counted.state_dict()[name].shape == weight.shape
    assert {name for name, weight in counted.named_parameters() if weight.requires_grad} == {
        name for name, weight in trained.named_parameters() if weight.requires_grad
    }


def test_a_compact_student_is_small_and_serves_any_teacher(tiny_3_teacher: Teacher) -> None:
    student = make("compact", tiny_3_teacher)
    assert isinstance(student, CompactStudent)
    assert 1e6 < sum(weight.numel() for weight in student.parameters()) < 4e6
    z_hat = torch.randn(1, 6, 5, 7)
    assert torch.equal(student(z_hat, torch.tensor([0])), torch.zeros_like(z_hat))


def test_checkpointing_gives_the_same_gradient(tiny_teacher: Teacher) -> None:
    gradients = []
    for on in (False, True):
        settings = TrainingSettings(preset="short", gradient_checkpointing=on)
        student = new_student(tiny_teacher, EDITS, settings)
        assert student.is_gradient_checkpointing == on
        wake(student)
        z_hat = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        student.train()(z_hat, torch.tensor([0, 1])).square().sum().backward()
        gradients.append(student.contexts.grad)
    assert_agrees(*gradients)
