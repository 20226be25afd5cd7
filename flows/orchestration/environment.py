"""What a process is told before the heavy libraries are imported in it."""

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
    """The libraries say only what a person must know, and leave nothing behind."""
    prepare_worker()
    _private_prefect()


def prepare_worker() -> None:
    """The same where Prefect is set up already: in a process that a worker of Prefect's or Ray's began."""
    quiet_libraries()
    show_logs()
    prepare_cpu()


def quiet_libraries() -> None:
    """Neither bars of their own nor advice to programmers."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)


def _private_prefect() -> None:
    """Before Prefect is imported: unless the user has set it up, it lives in a folder that is gone afterwards.

    A run's record is its run folder. Prefect's own database would grow by each run in ~/.prefect, where nobody who
    only calls `distillery` looks for it; whoever has a Prefect server or profile of their own keeps them.
    """
    if not _names_server():
        _lock_private_server()
    configured = (Path.home() / ".prefect" / "profiles.toml").exists()
    if configured or "PREFECT_API_URL" in os.environ or "PREFECT_HOME" in os.environ:
        return
    home = tempfile.mkdtemp(prefix="distillery-prefect-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end_in_order)
    os.environ["PREFECT_HOME"] = home
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")  # slow laptops
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")  # the server ends with the run
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # progress bars speak; errors end in one line


def _names_server() -> bool:
    """Whether the user's settings name a Prefect server: then no private one starts, and its secret is theirs."""
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).expanduser()
    files = [path for path in (profiles, Path(".env")) if path.is_file()]
    return "PREFECT_API_URL" in os.environ or any(
        "PREFECT_API_URL" in path.read_text(errors="replace") for path in files
    )


def _lock_private_server() -> None:
    """Every program and every web page of this machine can reach the server's port: only this run has its secret.

    Without one, Prefect answers whoever asks, and lets the scripts of any web page read the answers.
    """
    secret = os.environ.setdefault("PREFECT_SERVER_API_AUTH_STRING", f"distillery:{secrets.token_urlsafe(32)}")
    os.environ["PREFECT_API_AUTH_STRING"] = secret
    os.environ.setdefault("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "https://none.invalid")  # a name nobody can have
    os.environ.setdefault("PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "true")


def _end_in_order(number: int, _: object) -> None:
    """As Ctrl-C would: Prefect's server is a process of its own, which is stopped on the way out."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever repeats it shall not interrupt that
    sys.exit(128 + number)
