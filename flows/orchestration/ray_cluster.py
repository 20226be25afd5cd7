"""Paint shards on the workers of a Ray cluster, through Prefect's task runner.

Ray gives each shard a GPU, or a CPU where the cluster has no GPU. A worker keeps its teacher from shard to shard.
As without Ray, each shard is a task run of Prefect's, which is retried after a transient error.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from prefect import Task

from flows.config.operations import OperationSettings
from synth.errors import RunError
from synth.telemetry import TELEMETRY_OFF


def paint_on_ray(
    task: "Task[..., None]", shared: Mapping[str, Any], missing: Mapping[int, int], operations: OperationSettings
) -> Iterator[int]:
    """Paint missing shards in parallel, and yield the number of images of each that is done.

    Args:
        task: paints one shard; takes `number` and the shared parameters.
        shared: parameters that are the same for all shards.
        missing: number of a shard -> how many images it lacks.
        operations: the recipe's, with the cluster's address.

    Raises:
        RunError: if Ray is not installed, or the cluster does not answer.
        DistilleryError: of the first shard that cannot be painted; complete shards are kept.
    """
    try:
        import ray
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ModuleNotFoundError as error:
        raise RunError(f'painting on Ray needs {error.name}: pip install "dds-distillery[ray]"') from None
    import torch

    # Rounding depends on the number of threads, and Ray would give its workers one. Equal numbers, equal images.
    environment = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment |= {name: os.environ[name] for name in TELEMETRY_OFF}
    _require_cluster(operations.ray_address)
    runner: Any
    with RayTaskRunner(operations.ray_address, {"runtime_env": {"env_vars": environment}}) as runner:
        untyped_ray: Any = ray  # its type hints are incomplete
        resources = {"num_gpus": 1} if untyped_ray.cluster_resources().get("GPU") else {"num_cpus": 1}
        with remote_options(**resources):
            futures = {number: runner.submit(task, {**shared, "number": number}) for number in missing}
        for number, future in futures.items():
            future.result()
            yield missing[number]


def _require_cluster(address: str | None) -> None:
    """Fail at once if nothing listens at the address, which Ray itself would try for minutes."""
    url = urlsplit(address if address and "://" in address else f"//{address or ''}")
    try:
        if url.hostname and url.port:
            socket.create_connection((url.hostname, url.port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise RunError(f"no Ray cluster answers at {address}: {error}; `ray start --head` starts one") from error
