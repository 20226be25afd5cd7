"""The draws of a training: every image and every edit in its turn, every timestep in its bounds."""

from collections import Counter

import pytest
import torch

from distill.settings import TrainingSettings
from distill.training.draws import draw_edits, draw_image, draw_noise

SETTINGS = TrainingSettings(
    preset="short",
    steps=4,
    batch_size=3,
    learning_rate=1e-3,
    learning_rate_end=1e-4,
    learning_rate_steps=3,
    warmup_steps=2,
    guidance_end=3.0,
    guidance_warmup_steps=3,
    lambda_id_start=3.0,
    lambda_id_end=1.5,
    lambda_id_steps=3,
    ema_decay=0.0,
    checkpoint_every=2,
    autocast="off",
)


def test_every_image_comes_once_an_epoch_in_another_order() -> None:
    epochs = [[draw_image(0, epoch * 7 + place, 7) for place in range(7)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_timesteps_reach_both_bounds_and_no_further() -> None:
    settings = SETTINGS.model_copy(update={"min_timestep": 50, "max_timestep": 53})
    drawn = {int(draw_noise(settings, step, 0, torch.Size([1]))[0]) for step in range(60)}
    assert drawn == {50, 51, 52, 53}


@pytest.mark.parametrize("edits_per_image", ["all", 6, 100])
def test_an_image_takes_all_edits_unless_told(edits_per_image: object) -> None:
    settings = SETTINGS.model_copy(update={"edits_per_image": edits_per_image})
    assert draw_edits(settings, 7, 2, 6) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("count", "batch_size"), [(1, 6), (2, 3), (3, 4), (4, 3)])
def test_edits_take_turns_within_a_step(count: int, batch_size: int) -> None:
    settings = SETTINGS.model_copy(update={"edits_per_image": count})
    steps = [[draw_edits(settings, step, sample, 6) for sample in range(batch_size)] for step in range(20)]
    for images in steps:
        assert all(len(set(edits)) == count and edits == sorted(edits) for edits in images)
        # The batch has room for every edit equally often, and gives it.
        assert Counter(edit for edits in images for edit in edits) == dict.fromkeys(range(6), count * batch_size // 6)
    assert len({str(images) for images in steps}) > 10  # another order in each step


def test_edits_that_do_not_divide_get_their_share_too() -> None:
    settings = SETTINGS.model_copy(update={"edits_per_image": 2})
    counts = Counter(
        edit for step in range(600) for sample in range(3) for edit in draw_edits(settings, step, sample, 5)
    )
    assert sum(counts.values()) == 3600
    assert all(abs(count - 720) < 60 for count in counts.values())


def test_the_choice_of_edits_follows_seed_and_step() -> None:
    settings = SETTINGS.model_copy(update={"edits_per_image": 2})
    one = [draw_edits(settings, step, 1, 6) for step in range(30)]
    assert one == [draw_edits(settings, step, 1, 6) for step in range(30)]
    assert one != [draw_edits(settings.model_copy(update={"seed": 1}), step, 1, 6) for step in range(30)]
