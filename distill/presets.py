"""Named sets of training values, and what each was validated on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A named set of training values, and what it was validated on."""

    values: Mapping[str, Any]
    validated_on: str
    students: tuple[str, ...] = ("unet", "compact")
    """The kinds of students that the values are for."""


PRESETS: dict[str, Preset] = {
    "paper": Preset(
        values={},  # the defaults of TrainingSettings are the published ones
        validated_on="not run by this project: the paper's own values, for Stable Diffusion at 512 px on one A100",
        students=("unet",),
    ),
    "compact": Preset(
        values={
            "student": "compact",
            "steps": 50_000,
            "learning_rate": 1e-3,  # it starts from random weights, which 1e-5 would hardly move
            "warmup_steps": 500,
            "guidance_warmup_steps": 8000,
            "lambda_id_steps": 8000,
            "learning_rate_end": 1e-4,
            "learning_rate_steps": 50_000,
            "max_grad_norm": 0.5,
            "ema_decay": 0.999,
        },
        validated_on="nothing: the paper's guidance and identity weights over 50,000 steps, with the learning rates "
        "and the clipping that a compact student of the miniature learned with",
        students=("compact",),
    ),
    "short": Preset(
        values={
            "steps": 1250,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "warmup_steps": 10,
            "guidance_end": 5.5,
            "guidance_warmup_steps": 60,
            "lambda_id_start": 0.25,
            "lambda_id_end": 0.04,
            "lambda_id_steps": 1250,
            "learning_rate_end": 1e-4,
            "learning_rate_steps": 1250,
            "max_grad_norm": 0.5,
            "ema_decay": 0.99,
            "checkpoint_every": 50,
            "sample_every": 50,
        },
        validated_on="the miniature, on its drawn scenes; never Stable Diffusion",
    ),
}
