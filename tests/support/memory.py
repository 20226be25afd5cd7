"""What this process holds."""

from pathlib import Path

import pytest


def resident_mib() -> float:
    """Of memory, as the kernel says; the test is skipped where it does not."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the kernel does not say how much memory is used")
    return int(statm.read_text().split()[1]) * 4096 / 2**20
