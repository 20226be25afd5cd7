"""The machine: system, cores, memory, disk, locale, and the variables that change how a run goes."""

import locale
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from flows.doctor.findings import Finding, Level, gigabytes, short
from synth.cpu import memory_limit, quota_cores, usable_cores

_MIN_MEMORY_BYTES = 3e9  # the demo's peak is 2.5 GiB
_MIN_DISK_BYTES = 2e9  # a dataset of the miniature's and a training's checkpoints
_VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "DISTILLERY_HOME", "DISTILLERY_MINIATURE", "DISTILLERY_TRUST", "HF_HOME"),
    *("HF_HUB_CACHE", "HF_HUB_OFFLINE", "LD_LIBRARY_PATH", "LD_PRELOAD", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"),
    *("PYTHONPATH", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TMPDIR", "TORCH_NUM_THREADS"),
)
"""Variables that are shown if they are set; none of them holds a secret."""


def system() -> Iterator[Finding]:
    """Operating system, C library and encoding."""
    libc = " ".join(platform.libc_ver()).strip()
    kind = "container, " if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() else ""
    yield Finding("system", f"{kind}{platform.platform()}" + (f", {libc}" if libc else ""))
    encoding = locale.getpreferredencoding(False)
    utf8 = encoding.lower().replace("-", "") == "utf8"
    named = ".".join(filter(None, locale.getlocale())) or "C"
    advice = "" if utf8 else ": prompts in other scripts may be misread; set PYTHONUTF8=1"
    yield Finding("locale", f"{named}, {encoding}{advice}", Level.OK if utf8 else Level.NOTE)


def cores() -> Iterator[Finding]:
    """How many cores the machine has, and how many of them this process may use."""
    total, usable, quota = os.cpu_count() or 1, usable_cores(), quota_cores()
    text = f"{total}" if usable == total else f"{usable} of {total}, by affinity"
    if quota is None:
        yield Finding("cores", text)
        return
    too_many = quota < usable and "OMP_NUM_THREADS" not in os.environ
    advice = f": set OMP_NUM_THREADS={max(1, int(quota))}, or threads wait for each other" if too_many else ""
    yield Finding("cores", f"{text}; quota of {quota:g}{advice}", Level.NOTE if too_many else Level.OK)


def memory() -> Iterator[Finding]:
    """Memory that is free, of what the machine or the container has."""
    import psutil  # here, so that the page lacks one line where it is missing

    state, limit = psutil.virtual_memory(), memory_limit()
    total = min(state.total, limit or state.total)
    available = min(state.available, total)
    low = available < _MIN_MEMORY_BYTES
    of = "that this container may use" if limit is not None and limit < state.total else "of the machine"
    advice = "; the demo takes 2.7 GB" if low else ""
    text = f"{gigabytes(available)} available of {gigabytes(total)} {of}{advice}"
    yield Finding("memory", text, Level.NOTE if low else Level.OK)


def disk() -> Iterator[Finding]:
    """Space, and whether files can be written, where a run writes."""
    try:
        yield _space("working directory", Path.cwd())
    except FileNotFoundError:
        yield Finding("working directory", "no longer exists: change to another", Level.BROKEN)
    try:
        yield _space("home", Path.home())
    except RuntimeError:
        yield Finding("home", "is not known: set HOME", Level.BROKEN)
    try:
        yield _space("temporary files", Path(tempfile.gettempdir()), must_write=True)
    except FileNotFoundError as error:  # Python has tried all that it knows
        yield Finding("temporary files", f"cannot be written anywhere: {error.strerror}; set TMPDIR", Level.BROKEN)


def hub_cache() -> Iterator[Finding]:
    """Space where the Hub's models are kept."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    yield _space("Hub's cache", Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser())


def _space(name: str, folder: Path, must_write: bool = False) -> Finding:
    """The disk below a folder, or below the nearest one above it that exists."""
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    usage = shutil.disk_usage(existing)
    text = f"{short(folder)}: {gigabytes(usage.free)} free of {gigabytes(usage.total)}"
    if not os.access(existing, os.W_OK):
        return Finding(name, f"{text}; not writable", Level.BROKEN if must_write else Level.NOTE)
    if usage.free < _MIN_DISK_BYTES:
        return Finding(name, f"{text}; a run needs {gigabytes(_MIN_DISK_BYTES)}", Level.NOTE)
    return Finding(name, text)


def variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Variables of the environment that change how a run goes."""
    for name in _VARIABLES:
        if value := environment.get(name):
            folders = value.split(os.pathsep) if name.endswith(("PATH", "HOME", "CACHE", "DIR")) else None
            yield Finding(name, os.pathsep.join(map(short, folders)) if folders else value)
    if sys.flags.optimize:
        yield Finding("python -O", "assertions are off", Level.NOTE)
