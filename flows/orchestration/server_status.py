"""Prefect: its settings, which server a run would talk to, and whether that answers; nothing is started."""

import io
import os
import ssl
import sys
import threading
from base64 import b64encode
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from synth.errors import RunError, first_line
from synth.urls import redact

SECONDS = 2.0
"""How long a server may take to answer `doctor`."""
_SECONDS_BEFORE_A_RUN = 5.0
_ADVICE = "start it with `prefect server start`, or take PREFECT_API_URL out of the environment and the profile"


@dataclass(frozen=True)
class ServerStatus:
    """What Prefect's settings say, and what the server at its address says."""

    version: str
    profile: str
    missing_profile: str | None
    """The profile that was asked for, if there is none of its name: Prefect then takes its own."""
    url: str | None
    """None where each run has a private server."""
    server_version: str | None = None
    problem: str | None = None
    """Why the server cannot be used; None if it answers as it should."""


def prefect_profiles() -> Path:
    """Return where Prefect reads its profiles from; the file may not exist."""
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect")).expanduser()
    return Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).expanduser()


def check_settings() -> None:
    """Import Prefect, which reads its settings then: from the environment, from files here, and from its profiles.

    Raises:
        RunError: if it cannot make sense of them.
    """
    printed = io.StringIO()  # Prefect prints an error of its settings, too, and goes on until it needs them
    try:
        with redirect_stderr(printed):
            import prefect.context  # noqa: F401
    except ImportError:  # nothing is wrong with the settings
        raise
    except (Exception, SystemExit) as error:
        profiles = f", or in {path}" if (path := prefect_profiles()).exists() else ""
        raise RunError(
            f"Prefect's settings cannot be read ({settings_problem(error)}): correct or remove the setting, in the "
            f"environment, in .env, prefect.toml or pyproject.toml here{profiles}"
        ) from error
    sys.stderr.write(printed.getvalue())


def settings_problem(error: BaseException) -> str:
    """What is wrong with Prefect's settings, by the error that it raised: for a wrong value, which setting it is."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return redact(first_line(error))
    first = error.errors()[0]
    wrong = str(first["input"]).lower()  # Prefect writes some values in capitals
    variables = [name for name, value in os.environ.items() if name.startswith("PREFECT_") and value.lower() == wrong]
    return f"{variables[0] if variables else '.'.join(map(str, (error.title, *first['loc'])))}: {first['msg']}"


def check_server() -> None:
    """Check that the Prefect server which the user has configured answers, if there is one.

    Call this once the process is prepared: it imports Prefect.

    Raises:
        RunError: in seconds, if it does not, or refuses this user.
    """
    import httpx
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if url is None:  # the run starts a private one
        return
    source = "the environment variable" if "PREFECT_API_URL" in os.environ else "your Prefect profile's"
    named = f"the Prefect server at {redact(url)} ({source} PREFECT_API_URL)"
    unset = "unset it" if "PREFECT_API_URL" in os.environ else "`prefect config unset PREFECT_API_URL`"
    remedy = f"start it (`prefect server start`), or {unset}, and each run has a private one"
    try:
        # Certificates are Prefect's matter, and nothing secret is sent.
        answer = httpx.get(f"{url}/health", timeout=_SECONDS_BEFORE_A_RUN, verify=False)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        raise RunError(f"{named} does not answer ({redact(first_line(error))}): {remedy}") from None
    if answer.status_code in (401, 403) or answer.is_success:
        _check_password(named, remedy)
        return
    host = urlsplit(url).netloc.rpartition("@")[2]
    raise RunError(f"{named} does not answer as one: {host} says {answer.status_code}; {remedy}")


def _check_password(named: str, remedy: str) -> None:
    import httpx
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            client.read_flows(limit=1)
    except httpx.HTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise RunError(f"{named} fails ({redact(first_line(error))}): {remedy}") from None
        raise RunError(
            f"{named} refuses the password: `prefect config set PREFECT_API_AUTH_STRING=USER:PASSWORD`; or "
            f"{remedy.partition(', or ')[2]}"
        ) from None


def server_status() -> ServerStatus:
    """Read Prefect's settings, and ask the server that they name for its version.

    Raises:
        Exception: whatever Prefect raises where its settings cannot be read.
    """
    import prefect
    from prefect.context import get_settings_context
    from prefect.settings import load_profiles

    settings_context = get_settings_context()
    api = settings_context.settings.api
    profile, url = settings_context.profile.name, api.url
    wanted = os.environ.get("PREFECT_PROFILE") or load_profiles().active_name
    missing = wanted if wanted not in (None, profile) else None
    if url is None:
        return ServerStatus(prefect.__version__, profile, missing, None)
    headers = _authorization(api)
    certificates = None if api.tls_insecure_skip_verify else api.ssl_cert_file
    answer = _ask(f"{url.rstrip('/')}/admin/version", headers, certificates)
    return ServerStatus(prefect.__version__, profile, missing, url, *answer)


def _authorization(api: Any) -> dict[str, str]:
    """As Prefect's own client has it: the password of a server, or the key of Prefect Cloud."""
    if api.auth_string is not None:
        return {"Authorization": f"Basic {b64encode(api.auth_string.get_secret_value().encode()).decode()}"}
    return {} if api.key is None else {"Authorization": f"Bearer {api.key.get_secret_value()}"}


def _ask(url: str, headers: dict[str, str], certificates: str | None) -> tuple[str | None, str | None]:
    """The server's version, or None and what is wrong, within `SECONDS`."""
    answers: list[tuple[str | None, str | None]] = []
    # httpx bounds each phase alone, and the look-up of a name not at all
    thread = threading.Thread(target=lambda: answers.append(_request(url, headers, certificates)), daemon=True)
    thread.start()
    thread.join(SECONDS + 0.5)
    return answers[0] if answers else (None, _silent())


def _request(url: str, headers: dict[str, str], certificates: str | None) -> tuple[str | None, str | None]:
    import httpx

    try:
        verify = ssl.create_default_context(cafile=certificates) if certificates else False
        answer = httpx.get(url, headers=headers, timeout=SECONDS, verify=verify)
    except httpx.TimeoutException:
        return None, _silent()
    except Exception as error:  # an address that is none, certificates that are missing, a proxy that refuses, ...
        return None, f"does not answer ({first_line(error)}): {_ADVICE}"
    if answer.status_code in (401, 403):
        return None, "refuses the password: set PREFECT_API_AUTH_STRING as the server has it"
    try:
        version = answer.json()
    except ValueError:
        version = None
    if answer.status_code != 200 or not isinstance(version, str):
        return None, f"is not a Prefect server's API: it answers with {answer.status_code}; check PREFECT_API_URL"
    return version, None


def _silent() -> str:
    return f"does not answer within {SECONDS:g} seconds: {_ADVICE}"
