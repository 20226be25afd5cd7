"""A training's student before it has weights, to count what it takes."""

from collections.abc import Mapping
from typing import Any

import torch

from distill.settings import TrainingSettings
from distill.students import CompactStudent, Student, UNetStudent, public_config, require_plain_unet
from synth.teacher.teacher import Teacher


def student_of(
    name: str,
    network_class: str,
    config: Mapping[str, Any],
    context_size: tuple[int, int],
    edits: Mapping[str, str],
    settings: TrainingSettings,
) -> Student:
    """Make a student from what is known of a teacher without its weights: random, on PyTorch's default device.

    Args:
        name: of the teacher, for messages.
        network_class: of its network.
        config: of its network.
        context_size: T and D of an encoded text.
        edits: name -> an example of the target prompt.
        settings: which kind.

    Raises:
        TeacherError: if the teacher has no U-Net for a student of that kind.
        TrainingError: for LoRA without peft.
    """
    names, prompts = list(edits), list(edits.values())
    if settings.student == "compact":
        return CompactStudent(config["in_channels"], names, prompts)  # type: ignore[no-any-return]
    require_plain_unet(name, network_class, config)
    timestep, rank = settings.student_timestep, settings.lora_rank
    return UNetStudent(public_config(config), names, prompts, context_size, timestep, rank)  # type: ignore[no-any-return]


def num_weights(teacher: Teacher, edits: Mapping[str, str], settings: TrainingSettings) -> tuple[int, int]:
    """Count the weights of a training's student, and those of them that it learns. Nothing is allocated.

    Args:
        teacher: the model that it will learn from.
        edits: as for `student_of`, and so are the settings.
        settings: which kind.

    Raises:
        TeacherError, TrainingError: as `student_of`.
    """
    config, network_class = teacher.network.config, teacher.family.network_class
    _, tokens, width = teacher.encode_prompt(list(edits.values())[:1]).prompt_embeds.shape
    with torch.device("meta"):
        student = student_of(teacher.name, network_class, config, (tokens, width), edits, settings)
    weights = list(student.parameters())
    learned = [weight for weight in weights if weight.requires_grad]
    return sum(weight.numel() for weight in weights), sum(weight.numel() for weight in learned)
