"""constraints.txt, the lock: it fits pyproject.toml on every platform, is complete, and names no index."""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lock

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [line for line in lock.LOCK.read_text().splitlines() if not line.startswith("#")]
EVERYWHERE = [lock.environment(python, platform) for python in lock.PYTHONS for platform in lock.PLATFORMS]


def direct() -> list[Requirement]:
    """What pyproject.toml asks for: the base and every extra."""
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for texts in (PROJECT["dependencies"], *extras) for text in texts]


def pinned(lines: Iterable[str], environment: Any) -> dict[str, str]:
    """Name -> version of the pins that hold in an environment; no name twice."""
    found: dict[str, str] = {}
    for pin in map(Requirement, lines):
        if pin.marker is None or pin.marker.evaluate(environment):
            assert canonicalize_name(pin.name) not in found, f"{pin.name} is pinned twice"
            found[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    return found


def disagreements(requirements: Iterable[Requirement], lines: Iterable[str], environment: Any) -> Iterator[str]:
    """One line for each requirement that the lock does not have, or has in a version that does not fit."""
    pins = pinned(lines, environment)
    for each in requirements:
        if each.marker is not None and not each.marker.evaluate({**environment, "extra": ""}):
            continue
        version = pins.get(canonicalize_name(each.name))
        if version is None:
            yield f"{each.name} is not in constraints.txt: run make lock"
        elif not each.specifier.contains(version, prereleases=True):
            yield f"{each} is not what constraints.txt has, {version}: run make lock"


@pytest.mark.parametrize(
    "environment", EVERYWHERE, ids=lambda where: f"{where['python_version']}-{where['sys_platform']}"
)
def test_the_lock_fits_pyproject(environment: Any) -> None:
    assert not list(disagreements(direct(), LINES, environment))


def test_a_lock_that_lags_behind_is_found() -> None:
    here = EVERYWHERE[0]
    found = list(disagreements([Requirement("torch>=99"), Requirement("brand-new")], LINES, here))
    assert found == [
        f"torch>=99 is not what constraints.txt has, {pinned(LINES, here)['torch']}: run make lock",
        "brand-new is not in constraints.txt: run make lock",
    ]
    without = [line for line in LINES if not line.startswith("torch==")]
    assert list(disagreements(direct(), without, here)) == ["torch is not in constraints.txt: run make lock"]
    only_windows = ["only-there>=1 ; sys_platform == 'win32'"]
    assert not list(disagreements(map(Requirement, only_windows), LINES, here))


@pytest.mark.parametrize(
    "environment", EVERYWHERE, ids=lambda where: f"{where['python_version']}-{where['sys_platform']}"
)
def test_each_extra_has_one_build_of_onnx_runtime(environment: Any) -> None:
    """Two in one environment break each other, so nothing else brings any; the lock has both."""
    extras = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    found = {
        extra: [
            each.name for each in map(Requirement, texts) if each.marker is None or each.marker.evaluate(environment)
        ]
        for extra, texts in extras.items()
    }
    builds = {extra: [name for name in names if name.startswith("onnxruntime")] for extra, names in found.items()}
    has_cuda = environment["platform_machine"] in ("x86_64", "AMD64")  # of Linux and Windows
    wanted = {"cpu": ["onnxruntime"], "gpu": ["onnxruntime-gpu" if has_cuda else "onnxruntime"]}
    assert {extra: names for extra, names in builds.items() if names} == wanted
    pins = pinned(LINES, environment)
    assert "onnxruntime" in pins and ("onnxruntime-gpu" in pins) == has_cuda


def test_what_is_installed_needs_nothing_unpinned() -> None:
    """Follow the packages that are installed here down to their last dependency."""
    pins = pinned(LINES, lock.environment(lock.PYTHONS[0], "Linux on x86_64"))
    waiting, done = direct(), set()
    lacking = set()
    while waiting:
        each = waiting.pop()
        for extra in ("", *sorted(each.extras)):
            if (each.name, extra) in done:
                continue
            done.add((each.name, extra))
            if canonicalize_name(each.name) not in pins:
                lacking.add(each.name)
            try:
                stated = importlib.metadata.requires(each.name) or ()
            except importlib.metadata.PackageNotFoundError:
                continue
            below = map(Requirement, stated)
            waiting += [one for one in below if one.marker is None or one.marker.evaluate({"extra": extra})]
    assert not lacking
    assert len(done) > 150  # of the extras `pipeline` and `dev`


def test_every_line_pins_one_version_and_no_index() -> None:
    text = lock.LOCK.read_text()
    assert len(LINES) > 200
    for line in LINES:
        pin = Requirement(line)
        assert pin.url is None and not pin.extras, line
        assert re.fullmatch(r"==[0-9a-z.!]+", str(pin.specifier)), f"{line}: one version, without a local label"
    assert "://" not in text and not re.search(r"^\s*-|\bindex|\bwhl\b|\w\.(org|com|io)\b", text, re.MULTILINE)


def test_a_line_says_how_much_the_demo_downloads() -> None:
    said = re.findall(r"^# to download: (.*)$", lock.LOCK.read_text(), re.MULTILINE)
    assert len(said) == 1
    sizes = [float(number) for number in re.findall(r"([\d.]+) GB", said[0])]
    assert len(sizes) == 4 and all(0.1 < size < 10 for size in sizes)
    assert sizes[0] > sizes[1], "CUDA is the larger part on Linux"


def wheel(name: str, size: int) -> dict[str, Any]:
    return {"url": f"https://index.invalid/{name}", "size": size}


def test_a_package_without_wheels_for_a_python_is_named() -> None:
    pure = {"name": "pure", "version": "1", "wheels": [wheel("pure-1-py3-none-any.whl", 1)]}
    stable = {
        "name": "stable",
        "version": "2",
        "wheels": [
            wheel(f"stable-2-cp311-abi3-{platform}.whl", 1)
            for platform in ("manylinux_2_28_x86_64", "manylinux2014_aarch64", "macosx_11_0_arm64", "win_amd64")
        ],
    }
    late = {
        "name": "late",
        "version": "3",
        "marker": "sys_platform == 'linux' and platform_machine == 'x86_64'",
        "wheels": [
            wheel(f"late-3-cp3{minor}-cp3{minor}-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", 1)
            for minor in (11, 12, 13)
        ],
    }
    source_only = {"name": "source", "version": "4", "marker": "sys_platform == 'win32' and python_version < '3.12'"}
    assert sorted(lock.gaps([pure, stable, late, source_only])) == [
        "late 3 has no wheel for Python 3.14 on Linux on x86_64",
        "source 4 has no wheel for Python 3.11 on Windows",
    ]


def test_sizes_are_of_the_wheels_that_pip_takes() -> None:
    torch = {
        "name": "torch",
        "version": "2",
        "wheels": [
            wheel("torch-2-cp314-cp314-manylinux_2_28_x86_64.whl", 900_000_000),
            wheel("torch-2-cp314-cp314t-manylinux_2_28_x86_64.whl", 7),
            wheel("torch-2-cp314-cp314-macosx_14_0_arm64.whl", 100_000_000),
            wheel("torch-2-cp314-cp314-win_amd64.whl", 300_000_000),
            wheel("torch-2-cp311-cp311-manylinux_2_28_x86_64.whl", 7),
        ],
    }
    both = {
        "name": "both",
        "version": "1",
        "wheels": [
            wheel("both-1-py3-none-any.whl", 7),
            wheel("both-1-cp314-cp314-manylinux_2_17_x86_64.whl", 110_000_000),
            wheel("both-1-cp314-cp314-macosx_11_0_arm64.whl", 200_000_000),
            wheel("both-1-cp314-cp314-win_amd64.whl", 200_000_000),
        ],
    }
    cuda = {
        "name": "nvidia-cudnn-cu13",
        "version": "9",
        "marker": "sys_platform == 'linux'",
        "wheels": [wheel("nvidia_cudnn_cu13-9-py3-none-manylinux_2_27_x86_64.whl", 2_000_000_000)],
    }
    assert lock.header([torch, both, cuda]).splitlines()[1] == (
        "# to download: 3.0 GB on Linux (0.3 GB with a CPU-only torch), 0.3 GB on macOS, 0.5 GB on Windows"
    )
