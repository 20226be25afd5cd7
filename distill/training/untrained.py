"""A training's student before it has weights: what it takes is counted on PyTorch's meta device."""

from collections.abc import Mapping

import torch

from distill.settings import TrainingSettings
from distill.students import STUDENT_KINDS, Student, TeacherShape
from synth.teacher.hub import ModelFolder
from synth.teacher.teacher import Teacher

CLIP_TOKENS = 77
"""T of what CLIP's text encoders read."""


def student_with(model: ModelFolder, edits: Mapping[str, str], settings: TrainingSettings) -> Student:
    """Make the student of a training from the small files of its teacher: random, on PyTorch's default device.

    Args:
        model: the teacher.
        edits: name -> an example of the target prompt.
        settings: which kind.

    Raises:
        TeacherError: if the teacher has no U-Net for a student of that kind.
        TrainingError: for LoRA without peft.
    """
    size = (CLIP_TOKENS, model.config.get("cross_attention_dim", 0))
    shape = TeacherShape(model.name, model.family.network_class, model.config, size)
    return STUDENT_KINDS[settings.student].from_shape(shape, edits, settings)


def num_weights(teacher: Teacher, edits: Mapping[str, str], settings: TrainingSettings) -> tuple[int, int]:
    """Count the weights of a training's student, and those of them that it learns. Nothing is allocated.

    Args:
        teacher: the model that it will learn from.
        edits: as for `student_with`, and so are the settings.
        settings: which kind.

    Raises:
        TeacherError, TrainingError: as `student_with`.
    """
    _, tokens, width = teacher.encode_prompt(list(edits.values())[:1]).prompt_embeds.shape
    shape = TeacherShape(teacher.name, teacher.family.network_class, teacher.network.config, (tokens, width))
    with torch.device("meta"):
        student = STUDENT_KINDS[settings.student].from_shape(shape, edits, settings)
    weights = list(student.parameters())
    learned = [weight for weight in weights if weight.requires_grad]
    return sum(weight.numel() for weight in weights), sum(weight.numel() for weight in learned)
