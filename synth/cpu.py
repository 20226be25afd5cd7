"""The CPU: settings of the C libraries below torch, how many cores and how much memory a process may use, and whether
there is a GPU beside it."""

import ctypes
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

_NO_MEMORY_LIMIT = 2**60  # the first version of cgroups writes about 2**63 where there is none


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


def usable_cores() -> int:
    """Count the cores that this process may run on, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_nvidia_driver() -> bool:
    """Whether NVIDIA's driver is installed here, whatever torch makes of it."""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/version").exists()


def quota_cores(cgroup: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return how many cores' time a container or service may use, e.g. 1.5; None without a limit, or outside Linux.

    Args:
        cgroup: where the cgroups are mounted, of either version.
        membership: lists the process's own cgroups. A limit of any cgroup above them counts, too.
    """
    quotas = (_quota_of(folder) for folder in _cgroups("cpu", cgroup, membership))
    return min((quota for quota in quotas if quota is not None), default=None)


def num_threads() -> int:
    """Return how many threads compute best here: no more than the cores, the affinity and the quota allow.

    More threads than a quota has cores use it up together, and then all of them stand still.
    """
    quota = quota_cores()
    return usable_cores() if quota is None else max(1, min(usable_cores(), int(quota)))


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the bytes of memory that a container or service may use; None without a limit, or outside Linux.

    The arguments are those of `quota_cores`.
    """
    limits = (_limit_of(folder) for folder in _cgroups("memory", cgroup, membership))
    return min((limit for limit in limits if limit is not None), default=None)


def _cgroups(controller: str, cgroup: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of the process's cgroups for a controller, cpu or memory, and of those above them."""
    yield from (cgroup, cgroup / controller)
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        # The second version has one hierarchy, without names of controllers. A container sees the host's path here,
        # but not there; its own limit is then at the top.
        root = cgroup if not controllers else cgroup / controller
        if not controllers or controller in controllers.split(","):
            inner = root / own.strip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder != root and root in folder.parents)


def _quota_of(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:  # the first version of cgroups
            quota, period = ((folder / f"cpu.cfs_{part}_us").read_text().strip() for part in ("quota", "period"))
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _limit_of(folder: Path) -> int | None:
    name = "memory.max" if (folder / "memory.max").exists() else "memory.limit_in_bytes"
    try:
        limit = int((folder / name).read_text())
    except (OSError, ValueError):  # "max"
        return None
    return limit if limit < _NO_MEMORY_LIMIT else None
