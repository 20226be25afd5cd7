"""How a process is prepared before it imports the heavy libraries: logging, threads, and a private Prefect."""

import atexit
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import tomllib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.orchestration.logs import show_logs
from flows.orchestration.proxies import bypass_proxies, check_proxies
from flows.orchestration.server_status import check_server, check_settings, prefect_profiles
from synth.cpu import prepare_cpu
from synth.errors import RunError, os_reason

_MIN_TEMPORARY = 64 * 2**20  # bytes


def prepare() -> None:
    """Prepare a command's process: quiet libraries, logs in the terminal, and a private Prefect if none is set up."""
    prepare_worker()
    bypass_proxies()
    _private_prefect()


def prepare_prefect() -> None:
    """Prepare the process of a command that imports Prefect, as `prepare` does.

    Raises:
        RunError: if Prefect's settings cannot be read.
    """
    prepare()
    check_settings()


def prepare_flows() -> None:
    """Prepare the process of a command that starts flows, as `prepare_prefect` does, and check what they need.

    Raises:
        RunError: if Prefect's settings cannot be read, the user's Prefect server or proxy is of no use, or there is
            no room for temporary files.
    """
    _check_temporary_folder()
    prepare_prefect()
    check_proxies()
    check_server()


def prepare_worker() -> None:
    """Prepare a process in which Prefect is set up already, such as one that a Prefect or Ray worker started."""
    quiet_libraries()
    show_logs()
    prepare_cpu()
    _prepare_gpu()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # else accelerate launch, or torchrun, has started this process
        for name in os.environ.keys() - without_accelerate(os.environ).keys():
            del os.environ[name]


def without_accelerate(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without accelerate's own variables: the user's, for other work, would choose devices,
    precisions and libraries of a training that its recipe describes."""
    return {name: value for name, value in environment.items() if not name.startswith("ACCELERATE_")}


def _prepare_gpu() -> None:
    """Let CUDA's allocator extend its segments: painting and training ask for blocks of other sizes, and what lies
    between them is lost otherwise. Call this before torch is imported; the user's own setting wins."""
    if sys.platform == "linux" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def quiet_libraries() -> None:
    """Silence the libraries' own progress bars, and warnings that are meant for programmers."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)


def _private_prefect() -> None:
    """Give Prefect a temporary home, unless the user has set Prefect up. Call this before Prefect is imported.

    A run's record is its run folder. In ~/.prefect, Prefect's database would grow with every run, unnoticed by people
    who only call `distillery`. A server, profile or home that the user has configured stays in use.
    """
    if not _names_server():
        _lock_private_server()
        os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "true")  # some profiles switch it off
        # A slow laptop takes that long.
        os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    if prefect_profiles().exists() or "PREFECT_API_URL" in os.environ or "PREFECT_HOME" in os.environ:
        return
    home = tempfile.mkdtemp(prefix="distillery-prefect-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _exit_cleanly)
    os.environ["PREFECT_HOME"] = home
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")  # the server ends with the run
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # the command shows bars, and errors in one line


def _names_server() -> bool:
    """Whether the user's settings name a Prefect server, which then takes the place of a private one."""
    if "PREFECT_API_URL" in os.environ:
        return True
    dotenv, project, profiles = Path(".env"), _read_toml(Path("prefect.toml")), _read_toml(prefect_profiles())
    if dotenv.is_file() and "PREFECT_API_URL" in dotenv.read_text(encoding="utf-8", errors="replace"):
        return True
    if "url" in _table(project, "api"):
        return True
    active = str(os.environ.get("PREFECT_PROFILE", profiles.get("active", "ephemeral")))
    named = _table(profiles, "profiles")
    # Prefect's own profile of this name, which a user's replaces, names a server.
    return "PREFECT_API_URL" in _table(named, active) if active in named else active == "local"


def _read_toml(path: Path) -> dict[str, Any]:
    """Read a file of settings that Prefect reads too; {} if there is none, or none that can be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # Prefect itself says what is wrong with it
        return {}


def _table(tables: dict[str, Any], key: str) -> dict[str, Any]:
    """A table of a file of settings; {} if there is none of that name, or something else, which Prefect refuses."""
    found = tables.get(key)
    return found if isinstance(found, dict) else {}


def _check_temporary_folder() -> None:
    """Refuse a full disk before the private server, whose database is there, fails to start for two minutes."""
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise RunError(
            f"no folder for temporary files can be used ({os_reason(error)}): name one with TMPDIR"
        ) from None
    if free < _MIN_TEMPORARY:
        raise RunError(
            f"{folder}, the folder for temporary files, has {free / 2**20:.0f} MiB left, and a run needs "
            f"{_MIN_TEMPORARY / 2**20:.0f}: make room, or name another one with TMPDIR"
        )


def _lock_private_server() -> None:
    """Protect the private server with a secret that only this run knows.

    Every program on this machine can reach the server's port, and so can every web page open on it. Without a secret
    Prefect answers them all.
    """
    secret = os.environ.setdefault("PREFECT_SERVER_API_AUTH_STRING", f"distillery:{secrets.token_urlsafe(32)}")
    os.environ["PREFECT_API_AUTH_STRING"] = secret
    os.environ.setdefault(
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "https://none.invalid"
    )  # .invalid is a reserved name
    os.environ.setdefault("PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "true")


def _exit_cleanly(number: int, _: object) -> None:
    """Exit as Ctrl-C does, so that Prefect's server, a separate process, is stopped on the way out."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt the clean-up
    sys.exit(128 + number)
