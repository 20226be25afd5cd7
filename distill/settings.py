"""The settings that this room owns. No torch here."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from synth.settings import Settings

Positive = Annotated[int, Field(gt=0)]

PRESETS: dict[str, dict[str, Any]] = {
    # To the letter of the paper's supplement, section B. Its batch of 2 is of images; all edits of an image share t
    # and eps here. Not yet run: about 23 hours on one A100 by the paper.
    "paper": {
        "steps": 125_000,
        "batch_size": 2,
        "learning_rate": 1e-5,
        "warmup_steps": 10_000,
        "guidance_end": 25.0,
        "guidance_steps": 20_000,
        "lambda_id_end": 0.1,
        "lambda_id_steps": 20_000,
    },
    # Few network calls, for the miniature: what matters most is where guidance and lambda_id end.
    "short": {
        "steps": 140,
        "batch_size": 4,
        "learning_rate": 3e-4,
        "warmup_steps": 10,
        "guidance_end": 3.0,
        "guidance_steps": 60,
        "lambda_id_end": 1.5,
        "lambda_id_steps": 60,
    },
}


class TrainingSettings(Settings):
    """How a student is trained. `preset` gives the values; keys written out override it."""

    preset: Literal["paper", "short"] = "short"
    steps: Positive
    batch_size: Positive
    """Images a step; each is trained on all edits."""
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    guidance_start: float = 1.0
    guidance_end: float
    guidance_steps: Positive
    lambda_id_start: float = 3.0
    lambda_id_end: float
    lambda_id_steps: Positive
    min_timestep: Annotated[int, Field(ge=0, lt=1000)] = 50
    max_timestep: Annotated[int, Field(gt=0, le=1000)] = 950
    """Timesteps are uniform on [min_timestep, max_timestep)."""
    student_timestep: Annotated[int, Field(ge=0, lt=1000)] = 100
    """The fixed timestep at which the student's copy of the U-Net runs."""
    seed: int = 0
    checkpoint_every: Positive = 50
    keep_checkpoints: Positive = 2

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        preset = PRESETS.get(values.get("preset", "short"), {})
        return {**preset, **values}

    @model_validator(mode="after")
    def _ordered(self) -> "TrainingSettings":
        if self.min_timestep >= self.max_timestep:
            raise ValueError("min_timestep must be below max_timestep")
        return self


class EvaluationSettings(Settings):
    """How a student is measured on drawn scenes whose true counterfactual is known."""

    split: Literal["development", "test"] = "test"
    num_scenes: Positive = 100
