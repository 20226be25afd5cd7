"""The device that a teacher runs on, and the precision that its networks have there."""

import logging

import torch

from synth.cpu import has_nvidia_driver
from synth.errors import TeacherError
from synth.settings import TeacherSettings
from synth.teacher.families import Family

logger = logging.getLogger(__name__)

_said: set[str] = set()  # what a process has warned of, once


def choose_dtype(
    settings: TeacherSettings, family: type[Family], full_size: bool, device: torch.device
) -> torch.dtype:
    """Choose the networks' precision: the settings' own, or by the model and the device.

    A full-size model on a GPU gets its family's half precision; a card that does not multiply bfloat16 gets float16.
    """
    if settings.dtype != "auto":
        dtype: torch.dtype = getattr(torch, settings.dtype)
        return dtype
    if device.type == "cpu" or not full_size:
        return torch.float32
    lacks = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if family.half == torch.bfloat16 and lacks:
        logger.warning(
            f"this card does not multiply bfloat16, so {settings.id} runs in float16: if its images turn black, set "
            "teacher.dtype=float32"
        )
        return torch.float16
    return family.half


def unused_gpu() -> str:
    """Say that this machine has a GPU which this build of torch cannot use; "" where it has none, or torch can."""
    if torch.version.cuda or torch.version.hip:
        return ""
    if has_nvidia_driver():
        return (
            f"this machine has NVIDIA's driver, and torch {torch.__version__} is built without CUDA: install another "
            "build, as the README says under TORCH_INDEX"
        )
    return ""


def choose_device(name: str) -> torch.device:
    """Find the device of a setting: `auto`, `cpu`, `cuda` or `cuda:1`.

    Raises:
        TeacherError: if it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and (unused := unused_gpu()) and unused not in _said:
            _said.add(unused)
            logger.warning(f"the CPU computes: {unused}")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise TeacherError(f"there is no device {name!r}: use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        reason = unused_gpu() or "use auto or cpu, or install a CUDA build of torch"
        raise TeacherError(f"teacher.device is {name}, but PyTorch sees no GPU: {reason}")
    if device.type == "cuda" and device.index is None:  # each of several processes has a GPU of its own
        return torch.device("cuda", torch.cuda.current_device())
    return device
