"""Settings of the C libraries below torch, for processes that train or paint on a CPU."""

import ctypes
import os
import platform


def prepare_cpu() -> None:
    """Set up OpenMP and malloc; call once, before torch is imported. The user's own OpenMP settings win.

    OpenMP's threads spin while they wait for each other, by default for a millisecond or more. On a busy machine they
    spin on the very core that they wait for: a training step was seen to take 20 times longer. Threads that never
    spin make a step a third longer on a quiet machine (1.01 s of the demo on two cores, against 0.76 s). Threads that
    spin briefly and then sleep cost little on either (0.77 s).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory. A training step on a CPU frees and allocates the same large blocks again and
    again: returned to the system each time, they cost two thirds of the step in page faults."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block from mmap, which is returned at once
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give back nothing below 2 GiB
