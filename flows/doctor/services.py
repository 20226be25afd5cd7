"""What a run talks to: Prefect, the Hub, and the proxies between."""

import os
from collections.abc import Iterator, Mapping

from flows.doctor.findings import Finding, Level, short
from flows.doctor.packages import import_failure, installed_version, try_import
from flows.orchestration.server_status import prefect_profiles, server_status, settings_problem
from synth.urls import redact

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def prefect() -> Iterator[Finding]:
    """The profile, and the server that it names; nothing is started."""
    if installed_version("prefect") is None:
        yield Finding("Prefect", "not installed: model files run without it")
        return
    profiles = prefect_profiles()
    yield from import_failure("prefect")
    if try_import("prefect").module is None:
        return
    where = f"profiles in {short(profiles)}" if profiles.is_file() else "no profiles"
    try:
        status = server_status()
    except (Exception, SystemExit) as error:  # of a profile that is not TOML, or a setting out of bounds
        yield Finding("Prefect", f"its settings cannot be read: {settings_problem(error)} ({where})", Level.BROKEN)
        return
    yield Finding("Prefect", f"{status.version}, profile {status.profile}, {where}")
    if status.missing_profile is not None:
        advice = "choose another with `prefect profile use`, or unset PREFECT_PROFILE"
        yield Finding("profile", f"there is none named {status.missing_profile!r}: {advice}", Level.BROKEN)
    if status.url is None:
        yield Finding("server", "a private one for each run")
    elif status.problem is not None:
        yield Finding("server", f"{redact(status.url)} {redact(status.problem)}", Level.BROKEN)
    else:
        same = status.server_version == status.version
        note = "" if same else ", which is not this Prefect's version"
        text = f"{redact(status.url)} answers, version {status.server_version}{note}"
        yield Finding("server", text, Level.OK if same else Level.NOTE)


def hub() -> Iterator[Finding]:
    """Whether there is a login; what it is stays unread."""
    if installed_version("huggingface_hub") is None:
        yield Finding("Hub", "huggingface_hub is not installed: no hf:// addresses, no teachers from the Hub")
        return
    yield from import_failure("huggingface_hub")
    if (module := try_import("huggingface_hub").module) is None:
        return
    source = "from the environment" if os.environ.get("HF_TOKEN") else "stored by `hf auth login`"
    login = f"logged in, {source}" if module.get_token() else "not logged in"
    offline = ", offline by HF_HUB_OFFLINE" if module.constants.HF_HUB_OFFLINE else ""
    endpoint = str(module.constants.ENDPOINT)
    other = f", at {redact(endpoint)}" if os.environ.get("HF_ENDPOINT") else ""
    yield Finding("Hub", f"{login}{offline}{other}")


def proxies(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that send requests through a proxy, without its password."""
    for name in _PROXIES:
        for spelled in (name, name.lower()):
            if value := environment.get(spelled):
                yield Finding(spelled, _without_credentials(value))


def _without_credentials(proxy: str) -> str:
    """A proxy may be given without a scheme: user:password@host:port."""
    scheme, separator, rest = proxy.rpartition("://")
    return redact(f"{scheme}{separator}***@{rest.rpartition('@')[2]}" if "@" in rest else proxy)
