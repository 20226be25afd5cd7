"""Proxies: this machine's own servers are reached past them, and what is not the address of one is refused."""

import os

from synth.errors import RunError, first_line
from synth.urls import redact

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


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
