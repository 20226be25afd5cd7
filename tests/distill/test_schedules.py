"""The curves, against other people's and by hand."""

import pytest
from diffusers.optimization import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup
from torch import nn
from torch.optim import SGD

from distill.settings import TrainingSettings
from distill.training.schedules import cosine, linear_warmup


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


def test_the_papers_curves_by_hand() -> None:
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
