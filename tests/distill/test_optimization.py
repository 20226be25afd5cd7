"""The optimization of latents, on a tiny teacher: what must hold whatever the teacher knows."""

import numpy as np
import pytest
import torch
from agreement import assert_agrees
from PIL import Image

from distill.optimization import STEP, Progress, draw, firmly_thresholded, optimize
from distill.scores import dds
from distill.settings import EditSettings
from distill.zero_shot import edit
from synth.teacher.teacher import Teacher

SHORT = EditSettings(iterations=3)


def make_image(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def test_an_iteration_is_the_published_one(tiny_teacher: Teacher) -> None:
    """z - 0.0488 times the score at the published rate, 0.9 of it from the 21st iteration on."""
    settings = EditSettings(iterations=21)
    steps: list[tuple[torch.Tensor, float]] = []

    def record(progress: Progress) -> None:
        steps.append((progress.latents.clone(), float(progress.update_norm[0])))

    y, y_hat = tiny_teacher.encode_prompt(["a red sofa"]), tiny_teacher.encode_prompt([""])
    z_hat = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    z = optimize(tiny_teacher, z_hat, y, y_hat, settings, record)
    assert torch.equal(z, steps[-1][0]) and len(steps) == 21
    assert pytest.approx(0.1 * 2000 / 64**2) == 2 * STEP
    for iteration, rate in ((0, 2.0), (20, 1.8)):
        before = z_hat if iteration == 0 else steps[iteration - 1][0]
        t, eps = draw(settings, iteration, z_hat)
        g = dds(tiny_teacher, before, z_hat, y, y_hat, t, eps, 7.5)
        assert_agrees(steps[iteration][0], before - rate * STEP * g)
        assert steps[iteration][1] == pytest.approx(float((rate * STEP * g).norm()), rel=1e-4)


def test_small_changes_are_put_back_and_large_ones_stay(tiny_teacher: Teacher) -> None:
    z_hat = torch.randn(1, 4, 1, 3, generator=torch.Generator().manual_seed(0))
    change = torch.zeros(1, 4, 1, 3)
    change[0, 0, 0] = torch.tensor([0.9, 0.9, 3.0])
    change[0, 1, 0] = torch.tensor([0.0, 1.2, 4.0])  # lengths 0.9, 1.5 and 5
    z = firmly_thresholded(z_hat + change, z_hat, 2.0)
    assert torch.equal(z[..., 0], z_hat[..., 0])
    assert_agrees(z - z_hat, change * torch.tensor([0.0, 0.5, 1.0]), steps=10)
    free = edit(tiny_teacher, make_image(), "a red sofa", settings=SHORT)
    held = edit(tiny_teacher, make_image(), "a red sofa", settings=SHORT, firm_threshold=0.1)
    expected = firmly_thresholded(free.latents, free.source_latents, 0.1)
    assert torch.equal(held.latents, expected) and not torch.equal(expected, free.latents)


def test_the_methods_differ(tiny_teacher: Teacher) -> None:
    results = {
        name: edit(tiny_teacher, make_image(), "a red sofa", "a grey sofa", EditSettings(iterations=8, **changes))
        for name, changes in {
            "dds": {}, "sds": {"method": "sds"}, "regularized": {"method": "regularized-sds", "lambda_id": 5.0},
            "adam": {"optimizer": "adam"},
        }.items()
    }  # fmt: skip
    moved = {name: float((edited.latents - edited.source_latents).norm()) for name, edited in results.items()}
    assert len({round(value, 4) for value in moved.values()}) == 4
    assert moved["regularized"] < moved["sds"]
