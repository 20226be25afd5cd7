"""The presets and what the settings refuse."""

import pytest
from pydantic import ValidationError

from distill.presets import PRESETS
from distill.settings import SCHEDULE_KEYS, TrainingSettings, scaled_to


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
        ({"preset": "long"}, "'short', 'paper' or 'compact'"),
        ({"min_timestep": 500, "max_timestep": 400}, "min_timestep \\(500\\) is above max_timestep \\(400\\)"),
        ({"stepz": 3}, "stepz"),
        ({"guidance_end": 0.5}, "guidance_end"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingSettings(**values)


def test_an_end_of_the_rate_needs_its_length() -> None:
    with pytest.raises(ValueError, match="no effect without learning_rate_steps"):
        TrainingSettings(learning_rate_end=1e-6)
    assert TrainingSettings(learning_rate_end=1e-6, learning_rate_steps=100).learning_rate_end == 1e-6


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_sets_can_be_switched_off(name: str) -> None:
    off = TrainingSettings(preset=name, max_grad_norm=0, learning_rate_steps=0, ema_decay=0)
    assert TrainingSettings.model_validate(off.model_dump(mode="json", exclude_none=True)) == off


def test_what_a_compact_student_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="for the student unet"):
        TrainingSettings(student="compact", lora_rank=4)


@pytest.mark.parametrize("name", PRESETS)
def test_scaling_shortens_every_schedule_alike(name: str) -> None:
    whole = TrainingSettings(preset=name)
    small = scaled_to(whole, whole.steps // 5)
    for key in ("steps", *SCHEDULE_KEYS):
        assert getattr(small, key) == getattr(whole, key) // 5
    assert small.model_dump(exclude={"steps", *SCHEDULE_KEYS}) == whole.model_dump(exclude={"steps", *SCHEDULE_KEYS})
    assert scaled_to(whole, whole.steps) == whole
