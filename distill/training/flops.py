"""The FLOPs of a recipe's networks, counted on PyTorch's meta tensors, which have shapes and no content."""

from collections.abc import Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

from distill.costs import Flops
from distill.settings import TrainingSettings
from distill.training.footprint import caller_of
from distill.training.untrained import student_with
from synth.teacher.hub import ModelFolder


def flops_of(model: ModelFolder, edits: Mapping[str, str], settings: TrainingSettings, image_size: int) -> Flops:
    """Count the FLOPs of a recipe's networks on tensors without content.

    Args:
        model: the teacher, of which only the small files need to be here.
        edits: name -> an example of the target prompt.
        settings: of the training.
        image_size: in pixels.

    Raises:
        TeacherError: if the teacher has no U-Net for a student of that kind.
        TrainingError: for LoRA without peft.
    """
    side = image_size // model.vae_scale_factor
    latent = (model.config["in_channels"], side, side)
    counts = []
    with torch.device("meta"), torch.no_grad():
        call_teacher, vae = caller_of(model, model.network()), model.vae()
        student = student_with(model, edits, settings)
        calls = (
            lambda: call_teacher(1, latent),
            lambda: student(torch.zeros(1, *latent), torch.zeros(1, dtype=torch.int64)),
            lambda: vae.decode(torch.zeros(1, *latent)),
        )
        for call in calls:
            with FlopCounterMode(display=False) as counter:
                call()
            counts.append(float(counter.get_total_flops()))
    return Flops(*counts)
