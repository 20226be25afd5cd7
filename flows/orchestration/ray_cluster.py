"""Shards painted by the workers of a Ray cluster, through Prefect's task runner.

Ray schedules: a shard has a GPU to itself, or a CPU where the cluster has no GPU. A worker keeps its teacher from
shard to shard. Prefect sees a task run for each shard, as it does without Ray, and tries again what can pass.
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
    task: "Task[..., None]", shared: Mapping[str, Any], todo: Mapping[int, int], operations: OperationSettings
) -> Iterator[int]:
    """Paint the shards of `todo` at once, and yield how many images each brought.

    Args:
        task: paints one shard; takes `number` and what is shared.
        shared: parameters that are the same for all shards.
        todo: number of a shard -> how many images it lacks.
        operations: where the cluster is.

    Raises:
        RunError: if Ray is not installed, or the cluster does not answer.
        DistilleryError: of the first shard that cannot be painted; whole shards stay.
    """
    try:
        import ray
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ModuleNotFoundError as error:
        raise RunError(f'painting on Ray needs {error.name}: pip install "dds-distillery[ray]"') from None
    import torch

    # Sums round otherwise with another number of threads, and Ray's workers would have one.
    environment = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment |= {name: os.environ[name] for name in TELEMETRY_OFF}
    _refuse_silence(operations.ray_address)
    runner: Any
    with RayTaskRunner(operations.ray_address, {"runtime_env": {"env_vars": environment}}) as runner:
        cluster: Any = ray  # which is partly untyped
        share = {"num_gpus": 1} if cluster.cluster_resources().get("GPU") else {"num_cpus": 1}
        with remote_options(**share):
            futures = {number: runner.submit(task, {**shared, "number": number}) for number in todo}
        for number, future in futures.items():
            future.result()
            yield todo[number]


def _refuse_silence(address: str | None) -> None:
    """Ray itself would ask a cluster that is not there for minutes."""
    place = urlsplit(address if address and "://" in address else f"//{address or ''}")
    try:
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise RunError(f"no Ray cluster answers at {address}: {error}; `ray start --head` starts one") from error
