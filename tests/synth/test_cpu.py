"""How many threads compute best: what the machine, the affinity and a container's quota allow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from synth.cpu import memory_limit, num_threads, quota_cores, usable_cores

V1, V2 = "4:cpu,cpuacct:{own}\n3:memory:{own}\n", "0::{own}\n"


def cgroups(root: Path, membership: str, own: str, files: dict[str, str]) -> float | None:
    for name, content in files.items():
        file = root / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (root / "membership").write_text(membership.format(own=own))
    return quota_cores(root / "cgroup", root / "membership")


@pytest.mark.parametrize(
    ("membership", "own", "files", "expected"),
    [
        (V2, "/", {"cpu.max": "150000 100000\n"}, 1.5),
        (V2, "/", {"cpu.max": "max 100000\n"}, None),
        (V2, "/docker/a", {"cpu.max": "200000 100000\n"}, 2),  # a container that sees the host's path
        (V2, "/app.slice/a.service", {"app.slice/a.service/cpu.max": "50000 100000\n"}, 0.5),  # systemd's CPUQuota
        (
            V2,
            "/app.slice/a.service",
            {"app.slice/cpu.max": "100000 100000\n", "app.slice/a.service/cpu.max": "max 100000\n"},
            1,
        ),
        (V1, "/", {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        (V1, "/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (V1, "/a", {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 2.5),
        (V2, "/../../x", {"cpu.max": "garbage\n"}, None),
        (V2, "/", {"cpu.max": "100000 0\n"}, None),
        ("", "/", {}, None),
    ],
)
def test_the_quota_of_a_container(
    tmp_path: Path, membership: str, own: str, files: dict[str, str], expected: float | None
) -> None:
    assert cgroups(tmp_path, membership, own, files) == expected


@pytest.mark.parametrize(
    ("membership", "own", "files", "expected"),
    [
        (V2, "/", {"memory.max": "2147483648\n"}, 2**31),
        (V2, "/", {"memory.max": "max\n"}, None),
        (V2, "/a/b", {"a/memory.max": "1000\n", "a/b/memory.max": "max\n"}, 1000),
        (V1, "/", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        (V1, "/a", {"memory/a/memory.limit_in_bytes": "3000\n"}, 3000),
        (V2, "/", {"memory.max": "garbage\n"}, None),
        ("", "/", {}, None),
    ],
)
def test_the_memory_of_a_container(
    tmp_path: Path, membership: str, own: str, files: dict[str, str], expected: int | None
) -> None:
    cgroups(tmp_path, membership, own, files)
    assert memory_limit(tmp_path / "cgroup", tmp_path / "membership") == expected


def test_nothing_is_known_outside_linux(tmp_path: Path) -> None:
    assert memory_limit(tmp_path / "absent", tmp_path / "absent") is None
    assert quota_cores(tmp_path / "absent", tmp_path / "absent") is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (2.9, 2), (0.5, 1), (64.0, 8)])
def test_threads_follow_the_quota(monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int) -> None:
    monkeypatch.setattr("synth.cpu.usable_cores", lambda: 8)
    monkeypatch.setattr("synth.cpu.quota_cores", lambda: quota)
    assert num_threads() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_threads_follow_the_affinity() -> None:
    core = min(os.sched_getaffinity(0))
    program = (
        f"import os; os.sched_setaffinity(0, {{{core}}}); from synth.cpu import num_threads; print(num_threads())"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout == "1\n" and usable_cores() >= 1
