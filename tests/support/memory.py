"""The memory of this process."""

from pathlib import Path

import pytest


def resident_mib() -> float:
    """Resident memory in MiB. Skips the test where the kernel does not report it."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the kernel does not report the memory in use")
    return int(statm.read_text().split()[1]) * 4096 / 2**20


def peak_mib() -> float:
    """The most that this process has held so far; getrusage would count what its parent held when it began."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    pytest.skip("the kernel does not say how much memory was used")
