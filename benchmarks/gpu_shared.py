"""What the steps of `benchmarks/gpu.py` share: a device, made-up pairs, and a clock."""

import time
from collections.abc import Callable
from typing import Any

import torch

from distill.training.pairs import Pairs
from synth.teacher.teacher import Teacher

Result = dict[str, Any]

GIB = 2**30


def device_of(tiny: bool) -> str:
    """Where the steps run."""
    return "cpu" if tiny else "cuda"


def edits_of(num: int) -> dict[str, str]:
    """Made-up edits."""
    return {f"edit-{number}": f"a sofa number {number}" for number in range(num)}


def pairs_of(teacher: Teacher, num_edits: int) -> Pairs:
    """A few images of noise, with their texts."""
    side = teacher.defaults.image_size // 8
    latents = torch.randn((4, 4, side, side), generator=torch.Generator().manual_seed(0))
    return Pairs(latents, ["a grey sofa"] * 4, [list(edits_of(num_edits).values())] * 4)


def timed(teacher: Teacher, work: Callable[[int], object]) -> str:
    """The median of a few calls, after those that prepare kernels, and the peak memory."""
    on_gpu = teacher.device.type == "cuda"
    seconds: list[float] = []
    for step in range(8 if on_gpu else 2):
        started = time.perf_counter()
        work(step)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        if step == 0 and on_gpu:
            torch.cuda.reset_peak_memory_stats()
    later = sorted(seconds[len(seconds) // 2 :])
    peak = f", {torch.cuda.max_memory_allocated() / GIB:.1f} GiB" if on_gpu else ""
    return f"{1000 * later[len(later) // 2]:.0f} ms{peak}"
