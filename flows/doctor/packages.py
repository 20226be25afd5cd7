"""The project and its packages: what is installed, what cannot be imported, and what differs from the lock."""

import importlib
import importlib.metadata
import io
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from flows.doctor.findings import Finding, Level, short
from synth.errors import first_line

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, or site-packages."""
DISTRIBUTION = "dds-distillery"
BASE = "base"
PURPOSES = {
    BASE: "the command itself",
    "cpu": "model files: translate, inspect, serve, export",
    "gpu": "the same on NVIDIA's GPUs, in place of cpu",
    "pipeline": "all that paints, trains, exports or measures",
    "heic": "HEIC photographs",
    "lora": "training.lora_rank",
    "metrics": "PIE-Bench, and LPIPS in evaluations",
    "ray": "--runner ray",
    "tracking": "training.tracker=tensorboard",
    "s3": "s3:// URLs",
    "video": "translate, of videos",
    "serve": "serve",
    "dev": "the tests",
}
"""What each extra of pyproject.toml is for."""
_MODULES = {
    "imagehash": "imagehash",
    "onnxruntime-gpu": "onnxruntime",
    "pillow": "PIL",
    "scikit-image": "skimage",
    "markdown-it-py": "markdown_it",
}
"""The modules of packages that are imported by another name."""
_ONLY_PROGRAMS = {"dev"}  # extras whose packages no verb imports
_MAX_NAMED = 5  # packages in one line
_GIT_SECONDS = 5


def project() -> Iterator[Finding]:
    """Version, commit, place, Python."""
    try:
        yield Finding("version", importlib.metadata.version(DISTRIBUTION))
    except importlib.metadata.PackageNotFoundError:
        yield Finding("version", f"not installed: pip install -c constraints.txt -e {short(ROOT)}", Level.BROKEN)
    yield Finding("commit", _commit())
    yield Finding("installed in", short(ROOT))
    yield Finding("Python", f"{sys.version.split()[0]}, {sys.implementation.name}, {short(sys.executable)}")


def extras() -> Iterator[Finding]:
    """A line for each extra, and one for each of its packages that does not fit or cannot be imported."""
    for extra, requirements in requirements_of_extras().items():
        absent = [each.name for each in requirements if installed_version(each.name) is None]
        purpose = f"for {PURPOSES[extra]}: " if extra in PURPOSES else ""
        if absent:
            if extra == BASE:
                lacks = f"lacks {_named(absent)}: install the project again, as the README says"
                yield Finding(extra, f"{purpose}{lacks}", Level.BROKEN)
                continue
            what = "" if len(absent) == len(requirements) else f", lacks {_named(absent)}"
            yield Finding(extra, f"{purpose}not installed{what}")
            continue
        versions = ", ".join(f"{each.name} {installed_version(each.name)}" for each in requirements)
        yield Finding(extra, f"{purpose}{versions}")
        yield from _unfit(extra, requirements)


def _unfit(extra: str, requirements: list[Requirement]) -> Iterator[Finding]:
    for each in requirements:
        version = installed_version(each.name) or ""
        if not each.specifier.contains(version, prereleases=True):
            wanted = f"{each.name}{each.specifier}"
            yield Finding(each.name, f"{version} does not fit {wanted}: pip install '{wanted}'", Level.BROKEN)
        if extra not in _ONLY_PROGRAMS:
            yield from import_failure(module_name(each.name))


def lock() -> Iterator[Finding]:
    """How many packages have another version than the checkout's lock."""
    path = ROOT / "constraints.txt"
    if not path.is_file():
        return
    pins = [Requirement(line) for line in path.read_text(encoding="utf-8").splitlines() if line[:1].isalnum()]
    differing = []
    count = 0
    for pin in pins:
        version = installed_version(pin.name)
        if version is not None and (pin.marker is None or pin.marker.evaluate()):
            count += 1
            if not pin.specifier.contains(Version(version).public, prereleases=True):
                differing.append(f"{pin.name} {version} (lock: {str(pin.specifier).removeprefix('==')})")
    if differing:
        yield Finding("lock", f"{len(differing)} of {count} packages differ: {_named(differing)}", Level.NOTE)
    else:
        yield Finding("lock", f"{count} packages, all as in constraints.txt")


@cache
def requirements_of_extras() -> dict[str, list[Requirement]]:
    """Extra -> what it asks for here; from pyproject.toml in a checkout, since what was installed may be older."""
    path = ROOT / "pyproject.toml"
    if path.is_file():
        table = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        found = {BASE: table["dependencies"], **table["optional-dependencies"]}
        parsed = {extra: [Requirement(text) for text in texts] for extra, texts in found.items()}
        return {extra: [each for each in all_ if _applies(each, "")] for extra, all_ in parsed.items()}
    metadata = importlib.metadata.metadata(DISTRIBUTION)
    stated = [Requirement(text) for text in importlib.metadata.requires(DISTRIBUTION) or ()]
    in_base = [each for each in stated if _applies(each, "")]
    return {BASE: in_base} | {
        extra: [each for each in stated if each not in in_base and _applies(each, extra)]
        for extra in metadata.get_all("Provides-Extra") or ()
    }


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def installed_version(name: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def module_name(package: str) -> str:
    """The module that a package is imported as."""
    name = canonicalize_name(package)
    return _MODULES.get(name, name.replace("-", "_"))


@dataclass(frozen=True)
class Imported:
    """A module, or the line that says why there is none."""

    module: Any = None
    error: str = ""


@cache
def try_import(name: str) -> Imported:
    """Import a module, whatever it raises, without what it prints."""
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Imported(importlib.import_module(name))
    except (Exception, SystemExit) as error:  # OSError of a shared library, ValueError of another numpy, ...
        return Imported(error=f"cannot be imported: {type(error).__name__}: {first_line(error)}")


def import_failure(name: str) -> Iterator[Finding]:
    """A broken finding if the module cannot be imported."""
    if error := try_import(name).error:
        yield Finding(name, f"{error}; install it again", Level.BROKEN)


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{', '.join(names[:_MAX_NAMED])}{more}"


def _commit() -> str:
    if not (ROOT / ".git").exists():
        return "unknown, not a checkout"
    # fsmonitor would start a program that the checkout's settings name
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(ROOT), "describe", "--always", "--dirty=, with changes"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {first_line(error)}"
    return asked.stdout.strip() or f"unknown: {asked.stderr.strip().partition(chr(10))[0]}"
