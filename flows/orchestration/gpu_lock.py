"""One run at a time on a GPU, among the runs of one Prefect server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound


@contextmanager
def exclusive_gpu(device: str, num_gpus: int = 1) -> Iterator[None]:
    """Hold this machine's GPU; wait for a run that has it. Without a GPU nothing happens.

    A global concurrency limit bears the card's own id, so that it means the same card on every worker, whatever
    CUDA_VISIBLE_DEVICES says. It is made when it is first needed; to allow two runs on a card, raise it to 2. The
    slot is leased: that of a killed run is free again after five minutes. A run holds it from first to last, because
    a teacher stays in the card's memory between stages.

    Args:
        device: as the recipe's teacher.device has it: "auto", "cpu", "cuda", "cuda:1".
        num_gpus: more than one are the machine's first.
    """
    names = _gpu_names(device, num_gpus)
    if not names:
        yield
        return
    with exclusive(*names):
        yield


@contextmanager
def exclusive(*names: str) -> Iterator[None]:
    """Hold the global concurrency limits `names`, all at once; one that is not there is made, with one slot."""
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                _make_limit(client, name)
    # A lease that could not be renewed because the server restarts is no reason to throw a training away.
    with concurrency(list(names), strict=True, raise_on_lease_renewal_failure=False):
        yield


def _make_limit(client: Any, name: str) -> None:
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    try:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    except ObjectAlreadyExists:  # another worker was quicker
        return


def _gpu_names(device: str, num_gpus: int) -> list[str]:
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return []
    try:
        chosen = torch.device("cuda" if device == "auto" else device)
    except RuntimeError:  # the teacher refuses it in one line
        return []
    if chosen.type != "cuda":
        return []
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    cards = [index] if num_gpus == 1 else range(min(num_gpus, torch.cuda.device_count()))
    return [f"gpu-{torch.cuda.get_device_properties(card).uuid}" for card in cards]
