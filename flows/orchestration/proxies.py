"""The network as a machine has it: proxies, which this machine's own addresses are not asked through, and Prefect's
server."""

import os
from urllib.parse import urlsplit

from synth.errors import RunError, first_line
from synth.urls import redact

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_SECONDS = 5.0  # for a server to answer at all


def bypass_proxies() -> None:
    """Reach this machine's own servers directly, in this process and in those that it starts, whatever proxy is set.

    A run asks its private Prefect server at 127.0.0.1, which no proxy can reach.
    """
    named = [name for proxy in _PROXIES for name in (proxy, proxy.upper()) if os.environ.get(name)]
    if not named:  # without a proxy in the environment, `no_proxy` would hide those of the system's settings
        return
    for name in named:
        # What desktops write, and no library of ours reads: SOCKS of any version is version 5.
        if os.environ[name].startswith("socks://"):
            os.environ[name] = f"socks5://{os.environ[name].removeprefix('socks://')}"
    lower, upper = os.environ.get("no_proxy", ""), os.environ.get("NO_PROXY", "")
    for name, value in (("no_proxy", lower or upper), ("NO_PROXY", upper or lower)):
        hosts = [host.strip() for host in value.split(",") if host.strip()]
        os.environ[name] = ",".join([*hosts, *(host for host in _LOOPBACK if host not in hosts)])


def check_proxies() -> None:
    """Refuse a proxy that no connection can be made through, before a library stumbles over it.

    Raises:
        RunError: naming the variable.
    """
    import httpx

    for name in (name for proxy in _PROXIES for name in (proxy, proxy.upper())):
        url = os.environ.get(name)
        if not url:
            continue
        try:
            httpx.Proxy(url if "://" in url else f"http://{url}")
        except (ValueError, httpx.InvalidURL) as error:
            raise RunError(
                f"the environment variable {name} is {redact(url)!r}, which is not a proxy's address "
                f"({redact(first_line(error))}): write http://HOST:PORT or socks5://HOST:PORT, or unset it"
            ) from None


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
        answer = httpx.get(f"{url}/health", timeout=_SECONDS, verify=False)
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
