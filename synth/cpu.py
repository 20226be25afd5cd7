"""How a process that trains or paints on a CPU treats the machine: two settings of the C libraries below torch."""

import ctypes
import os
import platform


def prepare_cpu() -> None:
    """Call it once, before torch is imported. What the user's environment says about OpenMP has the last word.

    OpenMP's threads wait for each other by spinning, by default for a millisecond or more. Where other processes want
    the cores, they spin on the very core that they wait for: a training step beside busy ones was seen to take 20
    times longer so. Threads that never spin make a step a third longer on a quiet machine (1.01 s of the demo on
    two cores, against 0.76 s). Spinning briefly, and sleeping then, costs little either way (0.77 s).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Tell glibc to hold on to freed memory. A training step on a CPU frees and asks for the same large blocks again
    and again; handed back to the system every time, they cost two thirds of the step in page faults."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block from mmap, which is returned at once
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give back nothing below 2 GiB
