"""The whole examination: what matters for a report of a fault, or before a long run."""

from collections.abc import Iterator

from flows.doctor import devices, machine, packages, services
from flows.doctor.findings import Finding, Section, section


def examine(models: tuple[str, ...] = ()) -> Iterator[Section]:
    """Look at everything, a section at a time; nothing is changed or started.

    Args:
        models: model files to open, too.
    """

    def model_files() -> Iterator[Finding]:
        return devices.models(models)

    for title, *checks in (
        ("dds-distillery", packages.project, packages.lock),
        ("machine", machine.system, machine.cores, machine.memory, machine.disk, machine.hub_cache),
        ("packages", packages.extras),
        ("devices", devices.torch, devices.onnx_runtime),
        ("services", services.prefect, services.hub, services.proxies),
        ("environment", machine.variables),
        ("model files", model_files),
    ):
        if (found := section(title, *checks)).findings:
            yield found
