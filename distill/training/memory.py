"""How much memory this process has held at most, and what to do where a training's is not enough."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distill.settings import PixelSettings, TrainingSettings
from synth.errors import TrainingError


def peak_memory_bytes(device: torch.device | str) -> int:
    """The peak so far: on a GPU, of torch's allocations there; else the process's resident memory.

    Args:
        device: what the work ran on.

    Returns:
        Bytes; 0 where the system does not report it (Windows).
    """
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS reports bytes, others KiB


def release_memory(device: torch.device) -> None:
    """Return to the GPU what earlier work holds there without using it, such as the buffers of a painting."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def out_of_memory(remedy: str, when: str) -> str:
    """The one line of a training that does not fit into memory, with the settings that make it smaller."""
    return f"out of memory {when}: set {remedy}"


def knobs(settings: TrainingSettings) -> str:
    """The settings that a student's training takes less memory with, those first that change least."""
    found = ["training.micro_batch_size=1"] if settings.micro_batch_size != 1 else []
    if settings.student == "unet":
        found += [] if settings.gradient_checkpointing else ["training.gradient_checkpointing=true"]
        found += [] if settings.lora_rank else ["training.lora_rank=16"]
        found += ["training.student=compact"] if len(found) < 3 else []
    return " or ".join(found) or "a smaller scenes.image_size"


def pixel_knobs(settings: PixelSettings) -> str:
    """The same of a pixel network's training."""
    found = [f"pixel.batch_size={settings.batch_size // 2}"] if settings.batch_size >= 4 else []
    if settings.feature_weight or settings.texture_weight:
        found.append("pixel.feature_weight=0 with pixel.texture_weight=0")
    found += ["pixel.size=small"] if settings.size == "large" else []
    return " or ".join(found) or "a smaller scenes.image_size"


@contextmanager
def explained(remedy: str, when: str) -> Iterator[None]:
    """Turn a lack of a GPU's memory into a TrainingError of one line.

    Args:
        remedy: the settings that take less.
        when: when it happens, for the message.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(out_of_memory(remedy, when)) from error
