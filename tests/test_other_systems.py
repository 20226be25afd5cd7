"""Windows and macOS lack modules and functions of Linux. Everything imports without them, and files are written."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_runs import small_recipe

from flows.planning.preflight import preflight
from synth import files

ROOT = Path(__file__).parents[1]
PROGRAM = """
import builtins, importlib, os, signal, sys
from pathlib import Path

MISSING = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "posix"}
OURS = ("flows", "synth", "distill", "inference")
GONE = {os: ("fork", "sched_getaffinity", "getuid", "geteuid", "killpg", "setsid", "O_NOFOLLOW", "O_DIRECTORY",
             "statvfs", "mkfifo", "getloadavg", "uname", "O_NONBLOCK"),
        signal: ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "alarm", "pthread_sigmask")}
plain = builtins.__import__

class Lacking:
    # A system module as one of the project's modules finds it there; other packages have their own guards.
    def __init__(self, module): self._module = module
    def __getattr__(self, name):
        if name in GONE[self._module]:
            raise AttributeError(f"module {self._module.__name__!r} has no attribute {name!r}")
        return getattr(self._module, name)

lacking = {module.__name__: Lacking(module) for module in GONE}

def importing(name, globals=None, locals=None, fromlist=(), level=0):
    asks = (globals or {}).get("__name__", "")
    if asks.partition(".")[0] in OURS:
        if name in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in lacking:
            return lacking[name]
    return plain(name, globals, locals, fromlist, level)

builtins.__import__ = importing
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in (*OURS, *MISSING):
            raise
        print("without", error.name, file=sys.stderr)  # an extra that is not installed here

from synth.files import make_folder, whole_folder, write_text
place = Path(sys.argv[1])
write_text(place / "file", "text")
with whole_folder(place / "folder") as part:
    (part / "file").write_text("text")
from synth.cpu import num_threads, prepare_cpu, usable_cores
prepare_cpu()
assert usable_cores() >= 1 and num_threads() >= 1
from distill.training.memory import peak_memory_bytes
assert peak_memory_bytes("cpu") == 0, "not reported"
from inference.server.listener import max_connections, raise_descriptor_limit
raise_descriptor_limit()
assert max_connections() == 512
from inference.server.run import give_memory_back
give_memory_back()
print("all of", len(sys.argv) - 2)
"""


def modules() -> list[str]:
    found = [path for name in ("flows", "synth", "distill", "inference") for path in (ROOT / name).rglob("*.py")]
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found)


def test_everything_works_without_modules_of_linux(tmp_path: Path) -> None:
    names = [name.removesuffix(".__init__") for name in modules()]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == f"all of {len(names)}" and len(names) > 200
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "file").read_text() == "text"


def test_windows_flushes_files_by_handles_that_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses to open a folder, and to flush what is open to be read."""
    opened: list[tuple[str, int]] = []
    plain = os.open

    def opening(path: Any, flags: int, *mode: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        opened.append((Path(path).name, flags))
        return plain(path, flags, *mode)

    # Of this module's `sys` and `os` alone: the real ones serve everything else.
    monkeypatch.setattr(files, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(os, "open", opening)
    files.write_text(tmp_path / "file", "text")
    with files.whole_folder(tmp_path / "folder") as part:
        (part / "inner").write_text("text")
    monkeypatch.undo()
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "inner").read_text() == "text"
    flushed = [flags for name, flags in opened if name == "inner" or not flags & os.O_CREAT]
    assert flushed and all(flags & os.O_RDWR for flags in flushed)


@pytest.mark.parametrize("override", ["operations.processes=2", 'operations.accelerate_config="mine.yaml"'])
def test_what_windows_lacks_is_said_in_one_line(
    override: str, tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.planning.preflight.sys", SimpleNamespace(platform="win32"))
    checks = preflight(small_recipe(tiny_sd_folder, override), tmp_path / "run")
    (told,) = [str(check.error) for check in checks if check.error]
    assert told.startswith("a training in several processes is not supported on Windows") and "\n" not in told
