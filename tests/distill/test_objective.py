"""The draws of a training: every image in its turn, every timestep in its bounds."""

import torch

from distill.settings import TrainingSettings
from distill.training.objective import draw_image, draw_noise

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
