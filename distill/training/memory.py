"""How much memory this process has held at most."""

import sys

import torch


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
