"""How a process is prepared before it imports the heavy libraries: logging, threads, and a private Prefect."""

import atexit
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from pathlib import Path

from flows.orchestration.logs import show_logs
from synth.cpu import prepare_cpu


def prepare() -> None:
    """Prepare a command's process: quiet libraries, logs in the terminal, and a private Prefect if none is set up."""
    prepare_worker()
    _private_prefect()


def prepare_worker() -> None:
    """Prepare a process in which Prefect is set up already, such as one that a Prefect or Ray worker started."""
    quiet_libraries()
    show_logs()
    prepare_cpu()


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
    configured = (Path.home() / ".prefect" / "profiles.toml").exists()
    if configured or "PREFECT_API_URL" in os.environ or "PREFECT_HOME" in os.environ:
        return
    home = tempfile.mkdtemp(prefix="distillery-prefect-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _exit_cleanly)
    os.environ["PREFECT_HOME"] = home
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")  # a slow laptop takes that long
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")  # the server ends with the run
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # the command shows bars, and errors in one line


def prefect_profiles() -> Path:
    """Return where Prefect reads its profiles from; the file may not exist."""
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect")).expanduser()
    return Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).expanduser()


def _names_server() -> bool:
    """Whether the user's settings name a Prefect server, which then takes the place of a private one."""
    files = [path for path in (prefect_profiles(), Path(".env")) if path.is_file()]
    return "PREFECT_API_URL" in os.environ or any(
        "PREFECT_API_URL" in path.read_text(errors="replace") for path in files
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
