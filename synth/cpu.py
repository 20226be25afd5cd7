"""How a process that trains or paints on a CPU treats the machine: two settings of the C libraries below torch."""

import ctypes
import os
import platform


def prepare_cpu() -> None:
    """Call it once, before torch is imported. What the user's environment says about OpenMP has the last word.

    OpenMP's threads wait for each other by spinning. Where another process wants a core, they spin on the very core
    that they wait for: a training step on two cores beside one busy process took 20 times longer so than on a single
    core. Threads that sleep while they wait cost nothing that could be measured on a quiet machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Tell glibc to hold on to freed memory. A training step on a CPU frees and asks for the same large blocks again
    and again; handed back to the system every time, they cost two thirds of the step in page faults."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no block from mmap, which is returned at once
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give back nothing below 2 GiB
