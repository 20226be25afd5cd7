"""A lock on the GPU: of all runs on one Prefect server, one at a time uses a card."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound


@contextmanager
def exclusive_gpu(device: str, num_gpus: int | None = 1) -> Iterator[None]:
    """Lock this machine's GPUs, waiting for the run that holds them. Without a GPU, do nothing.

    The lock is a global concurrency limit named after the card's UUID, so that it means the same card on every
    worker, whatever CUDA_VISIBLE_DEVICES says. It is created on first use; raise it to 2 to allow two runs on a card.
    Its slot is leased: a killed run's slot is free again after five minutes. A run holds the lock from start to
    finish, because the teacher stays in the card's memory between stages.

    Args:
        device: the recipe's teacher.device: "auto", "cpu", "cuda" or "cuda:1".
        num_gpus: if more than one, the machine's first so many cards; None is all of them.
    """
    names = _gpu_names(device, num_gpus)
    if not names:
        yield
        return
    with exclusive(*names):
        yield


@contextmanager
def exclusive(*names: str) -> Iterator[None]:
    """Hold a slot of each of these global concurrency limits, creating missing ones with one slot."""
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                _create_limit(client, name)
    # A lease that cannot be renewed while the server restarts must not end a training.
    with concurrency(list(names), strict=True, raise_on_lease_renewal_failure=False):
        yield


def _create_limit(client: Any, name: str) -> None:
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    try:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    except ObjectAlreadyExists:  # another worker was faster
        return


def _gpu_names(device: str, num_gpus: int | None) -> list[str]:
    """The limits' names, one a card; empty if the run uses no GPU."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return []
    try:
        chosen = torch.device("cuda" if device == "auto" else device)
    except RuntimeError:  # not a device; loading the teacher reports it in one line
        return []
    if chosen.type != "cuda":
        return []
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    num_visible = torch.cuda.device_count()
    cards = [index] if num_gpus == 1 else range(num_visible if num_gpus is None else min(num_gpus, num_visible))
    return [f"gpu-{torch.cuda.get_device_properties(card).uuid}" for card in cards]
