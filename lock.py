# /// script
# requires-python = ">=3.11"
# dependencies = ["packaging>=24"]
# ///
"""Make constraints.txt: every package of every extra, pinned for all Pythons and platforms of the project.

    make lock                # keeps each version that still fits pyproject.toml
    make lock UPGRADE=1      # raises all of them

It holds names, versions and markers, and no index: pip and uv take the packages from where they are set up to.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parent
LOCK = ROOT / "constraints.txt"
PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
"""From the oldest that pyproject.toml allows to the newest that torch has wheels for."""
GLIBC_MINOR, MACOS = 28, (14, 0)  # the oldest that torch's wheels run on
PLATFORMS = {
    "Linux on x86_64": ("linux", "Linux", "x86_64"),
    "Linux on ARM": ("linux", "Linux", "aarch64"),
    "macOS on Apple silicon": ("darwin", "Darwin", "arm64"),
    "Windows": ("win32", "Windows", "AMD64"),
}
"""Name -> sys_platform, platform_system, platform_machine. Intel Macs have neither a torch nor an onnxruntime."""
MEASURED = ("Linux on x86_64", "macOS on Apple silicon", "Windows")  # whose downloads the header says
DEMO_EXTRAS = ("pipeline", "cpu")  # what `make demo` installs
CUDA = re.compile(r"(cuda|nvidia|triton)\b")
CPU_TORCH_BYTES = 0.19e9  # PyTorch's own wheel for Linux without CUDA, which another index has


def main(upgrade: bool) -> None:
    """Write the lock anew, or leave it alone and say which wheels are missing."""
    with tempfile.TemporaryDirectory() as folder:
        new, detailed = Path(folder) / "constraints.txt", Path(folder) / "pylock.toml"
        if LOCK.exists():
            shutil.copy(LOCK, new)  # uv keeps the versions of the file that it writes to
        resolve(new, "--all-extras", "--no-annotate", "--no-header", *(["--upgrade"] if upgrade else []))
        resolve(detailed, "--all-extras", "--constraint", str(new))
        if missing := sorted(gaps(read(detailed))):
            sys.exit("\n".join([*missing, "give them a marker in pyproject.toml, and name them in the README"]))
        resolve(detailed, *(f"--extra={extra}" for extra in DEMO_EXTRAS), "--constraint", str(new))
        text = f"{header(read(detailed))}{new.read_text()}"
    LOCK.write_text(text)


def resolve(out: Path, *options: str) -> None:
    """Let uv resolve pyproject.toml for every platform at once."""
    oldest = ".".join(map(str, PYTHONS[0]))
    universal = ("--universal", "--python-version", oldest, "--no-emit-index-url", "--quiet")
    command = [os.environ["UV"], "pip", "compile", *universal, *options, "--output-file", str(out), "pyproject.toml"]
    if (code := subprocess.run(command, cwd=ROOT, check=False).returncode) != 0:
        sys.exit(code)


def read(detailed: Path) -> list[dict[str, Any]]:
    """The packages of a pylock.toml, each with its marker and its wheels."""
    packages: list[dict[str, Any]] = tomllib.loads(detailed.read_text())["packages"]
    return packages


def header(packages: list[dict[str, Any]]) -> str:
    """What stands above the versions; the Makefile prints its second line before it installs the demo."""
    linux, mac, windows = (sizes(packages, name) for name in MEASURED)
    without_cuda = sum(size for name, size in linux.items() if name != "torch" and not CUDA.match(name))
    return (
        "# Made by `make lock`; `make lock UPGRADE=1` raises the versions. Use: pip install --constraint THIS\n"
        f"# to download: {sum(linux.values()) / 1e9:.1f} GB on Linux "
        f"({(without_cuda + CPU_TORCH_BYTES) / 1e9:.1f} GB with a CPU-only torch), "
        f"{sum(mac.values()) / 1e9:.1f} GB on macOS, {sum(windows.values()) / 1e9:.1f} GB on Windows\n"
    )


def sizes(packages: Iterable[dict[str, Any]], platform: str) -> dict[str, int]:
    """Name -> bytes of the wheel that the newest Python takes on a platform."""
    found = {}
    for package in needed(packages, PYTHONS[-1], platform):
        wheel = best_wheel(package, PYTHONS[-1], platform)
        assert wheel is not None, package["name"]  # gaps() has been asked before
        found[package["name"]] = int(wheel["size"])
    return found


def gaps(packages: list[dict[str, Any]]) -> Iterator[str]:
    """One line for each package that some Python would have to compile, or could not install at all."""
    for platform in PLATFORMS:
        for python in PYTHONS:
            for package in needed(packages, python, platform):
                if best_wheel(package, python, platform) is None:
                    version = ".".join(map(str, python))
                    yield f"{package['name']} {package['version']} has no wheel for Python {version} on {platform}"


def needed(packages: Iterable[dict[str, Any]], python: tuple[int, int], platform: str) -> Iterator[dict[str, Any]]:
    """The packages whose marker is true."""
    where = environment(python, platform)
    return (each for each in packages if "marker" not in each or Marker(each["marker"]).evaluate(where))


def environment(python: tuple[int, int], platform: str) -> dict[str, str]:
    """What markers are asked about."""
    sys_platform, system, machine = PLATFORMS[platform]
    version = ".".join(map(str, python))
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{version}.4",
        "os_name": "nt" if system == "Windows" else "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": system,
        "platform_version": "",
        "python_full_version": f"{version}.4",
        "python_version": version,
        "sys_platform": sys_platform,
    }


def best_wheel(package: dict[str, Any], python: tuple[int, int], platform: str) -> dict[str, Any] | None:
    """The wheel that pip would take; None if there is none."""
    ranks = tag_ranks(python, platform)
    runnable = []
    for wheel in package.get("wheels", ()):
        of_this = [ranks[tag] for tag in wheel_tags(wheel["url"].rsplit("/", 1)[-1]) if tag in ranks]
        if of_this:
            runnable.append((min(of_this), wheel))
    return min(runnable, key=lambda each: each[0])[1] if runnable else None


@cache
def wheel_tags(name: str) -> frozenset[Tag]:
    """What a wheel's file name says about where it runs."""
    return parse_wheel_filename(name)[3]


@cache
def tag_ranks(python: tuple[int, int], platform: str) -> dict[Tag, int]:
    """The tags of the wheels that run there; the best is 0."""
    system, _, machine = PLATFORMS[platform]
    if system == "linux":
        names = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 4, -1)]
        names += [f"{old}_{machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    else:
        names = list(mac_platforms(MACOS, machine)) if system == "darwin" else ["win_amd64"]
    found = [*cpython_tags(python, platforms=names)]
    found += compatible_tags(python, f"cp{python[0]}{python[1]}", names)
    return {tag: rank for rank, tag in enumerate(found)}


if __name__ == "__main__":
    main(upgrade="--upgrade" in sys.argv[1:])
