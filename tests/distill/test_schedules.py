"""The curves, against other people's and by hand."""

import pytest
from diffusers.optimization import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup
from pydantic import ValidationError
from torch import nn
from torch.optim import SGD

from distill.schedules import cosine, linear_warmup
from distill.settings import PRESETS, TrainingSettings


def test_cosine_is_the_one_of_diffusers() -> None:
    """Theirs falls from 1 to 0."""
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=20)
    for step in range(21):
        assert cosine(step, 3.0, 0.1, 20) == pytest.approx(0.1 + 2.9 * theirs.lr_lambdas[0](step), abs=1e-12)


def test_linear_warmup_is_the_one_of_diffusers_a_step_ahead() -> None:
    """Theirs spends its first step on a learning rate of 0."""
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    theirs = get_constant_schedule_with_warmup(optimizer, num_warmup_steps=10)
    for step in range(15):
        assert linear_warmup(step, 10) == pytest.approx(theirs.lr_lambdas[0](step + 1), abs=1e-12)


def test_the_papers_curves_at_the_steps_that_can_be_done_by_hand() -> None:
    paper = TrainingSettings(preset="paper")
    omega = [cosine(s, paper.guidance_start, paper.guidance_end, paper.guidance_warmup_steps) for s in (0, 10_000)]
    assert omega == pytest.approx([1, 13])
    lambda_id = [
        cosine(s, paper.lambda_id_start, paper.lambda_id_end, paper.lambda_id_steps)
        for s in (0, 10_000, 20_000, 10**6)
    ]
    assert lambda_id == pytest.approx([3, 1.55, 0.1, 0.1])
    assert (linear_warmup(4_999, 10_000), linear_warmup(9_999, 10_000), linear_warmup(10**6, 10_000)) == (0.5, 1, 1)


def test_a_curve_of_no_length_is_at_its_end() -> None:
    assert cosine(0, 1.0, 25.0, 0) == 25.0
    assert linear_warmup(0, 0) == 1.0


def test_the_paper_preset_holds_the_published_values() -> None:
    paper = TrainingSettings(preset="paper")
    assert (paper.batch_size, paper.steps, paper.learning_rate, paper.warmup_steps) == (2, 125_000, 1e-5, 10_000)
    assert TrainingSettings() == paper


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_explicit_keys_win(name: str) -> None:
    settings = TrainingSettings(preset=name)
    assert all(getattr(settings, key) == value for key, value in PRESETS[name].values.items())
    assert PRESETS[name].validated_on
    changed = TrainingSettings(preset=name, steps=7, lambda_id_end=0.5)
    assert (changed.steps, changed.lambda_id_end, changed.batch_size) == (7, 0.5, settings.batch_size)
    assert TrainingSettings.model_validate_json(changed.model_dump_json()) == changed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "long"}, "'short' or 'paper'"),
        ({"min_timestep": 500, "max_timestep": 400}, "min_timestep \\(500\\) is above max_timestep \\(400\\)"),
        ({"stepz": 3}, "stepz"),
        ({"guidance_end": 0.5}, "guidance_end"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingSettings(**values)


def test_an_end_of_the_rate_needs_its_way() -> None:
    with pytest.raises(ValueError, match="give learning_rate_steps"):
        TrainingSettings(learning_rate_end=1e-6)
    assert TrainingSettings(learning_rate_end=1e-6, learning_rate_steps=100).learning_rate_end == 1e-6


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_sets_can_be_set_off_and_stays_so(name: str) -> None:
    off = TrainingSettings(preset=name, max_grad_norm=0, learning_rate_steps=0, ema_decay=0)
    assert TrainingSettings.model_validate(off.model_dump(mode="json", exclude_none=True)) == off
