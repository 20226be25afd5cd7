"""The precision that a training's networks run in."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from distill.settings import TrainingSettings
from synth.teacher.teacher import Teacher


def autocast_of(settings: TrainingSettings, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Choose the precision that the networks run in.

    Args:
        settings: `autocast` of them.
        device: where the networks are.

    Returns:
        A factory of context managers, since each can be entered once.
    """
    enabled = settings.autocast == "bfloat16"
    if settings.autocast == "auto":
        enabled = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else _cpu_multiplies_bfloat16(device)
        )
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def autocast_of_score(settings: TrainingSettings, teacher: Teacher) -> Callable[[], AbstractContextManager[Any]]:
    """Choose the precision that the score is computed in: on a GPU a teacher in half precision has its own already,
    and autocast would take its norms to float32 and back, and everything else to bfloat16."""
    if teacher.device.type == "cuda" and teacher.dtype != torch.float32:
        return lambda: torch.autocast("cuda", enabled=False)
    return autocast_of(settings, teacher.device)


def _cpu_multiplies_bfloat16(device: torch.device) -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # the oldest allowed torch lacks it
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
