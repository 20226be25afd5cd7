"""The whole examination: what matters for a report of a fault, or before a long run."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path

from flows.doctor import devices, machine, packages, services
from flows.doctor.findings import Check, Finding, Section, section
from flows.orchestration.environment import prepare


def examine(models: tuple[str, ...] = ()) -> Iterator[Section]:
    """Look at everything, a section at a time; nothing is changed or started.

    Args:
        models: model files to open, too.
    """

    as_given = dict(os.environ)  # what follows changes it, and the page shows what the user has set

    def of_user(check: Callable[[Mapping[str, str]], Iterator[Finding]]) -> Check:
        @wraps(check)
        def checked() -> Iterator[Finding]:
            return check(as_given)

        return checked

    def model_files() -> Iterator[Finding]:
        return devices.models(models)

    for title, *checks in (
        ("dds-distillery", this_process, packages.project, packages.lock),
        ("machine", machine.system, machine.cores, machine.memory, machine.disk, machine.hub_cache),
        ("packages", packages.extras),
        ("devices", devices.torch, devices.onnx_runtime),
        ("services", services.prefect, services.hub, of_user(services.proxies)),
        ("environment", of_user(machine.variables)),
        ("model files", model_files),
    ):
        if (found := section(title, *checks)).findings:
            yield found


def this_process() -> Iterator[Finding]:
    """Prepare as a run does, before a package is imported that makes folders in the home of people who have none."""
    prepare()  # for Prefect
    if "MPLCONFIGDIR" not in os.environ and not _matplotlib_folder().exists():
        os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="distillery-doctor-")
        atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)
    yield from ()  # it has nothing to say, unless it fails


def _matplotlib_folder() -> Path:
    """Where matplotlib keeps its settings, which it makes when it is imported."""
    if sys.platform.startswith(("linux", "freebsd")):
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "matplotlib"
    return Path.home() / ".matplotlib"
