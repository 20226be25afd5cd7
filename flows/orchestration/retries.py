"""What keeps a run alive, and out of another's way: which errors are worth another try, and who has the GPU."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from prefect import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.tasks import exponential_backoff

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

_PASSING = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EPIPE, errno.ETIMEDOUT, errno.ESTALE),
    *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETDOWN, errno.ENETUNREACH),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, getattr(errno, "EREMOTEIO", errno.EIO)),  # s3fs: the server's own fault
}
_PASSING_KINDS = {  # of libraries that need not be installed
    "aiohttp.client_exceptions.ClientError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "httpx.TransportError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
}
_FINAL_KINDS = {
    "huggingface_hub.errors.OfflineModeIsEnabled",  # a ConnectionError by birth, but somebody wants it so
    "prefect.task_engine.TaskRunTimeoutError",  # a TimeoutError; the next try would take as long
}
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}


def is_transient(error: BaseException) -> bool:
    """Whether an error may be gone at the next try: the network's and the storage's. A recipe, a file that is
    missing, a right that is missing and a full disk stay as they are.

    Our own errors put a library's into one line; what they were made from decides.
    """
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(link).__mro__}
        if kinds & _FINAL_KINDS:
            return False
        status = _status(link)
        if status is not None:
            return status in _PASSING_STATUS
        if isinstance(link, ConnectionError | TimeoutError) or kinds & _PASSING_KINDS:
            return True
        if isinstance(link, OSError) and link.errno in _PASSING:
            return True
        link = link.__cause__ or link.__context__
    return False


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of httpx, requests, the Hub or botocore carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _is_worth_a_retry(task: Any, task_run: Any, state: "State[Any]") -> bool:
    return isinstance(state.data, BaseException) and is_transient(state.data)


RETRIES: dict[str, Any] = {
    "retries": 4,
    "retry_delay_seconds": exponential_backoff(10),  # 10, 20, 40, 80 s
    "retry_jitter_factor": 0.5,  # workers that lost the same server do not come back at once
    "retry_condition_fn": _is_worth_a_retry,
}
"""For tasks that touch storage or the network. They go on from what is on disk."""


_holding: ContextVar[bool] = ContextVar("_holding", default=False)


@contextmanager
def exclusive_gpu(device: str, num: int = 1) -> Iterator[None]:
    """Hold this machine's GPU, as long as runs on the same Prefect server are concerned; wait for whoever has it.

    A global concurrency limit bears the card's own id, so that it means the same card on every worker, whatever
    CUDA_VISIBLE_DEVICES says. It is made when it is first needed; who wants two runs on a card raises it to 2. The
    slot is leased: that of a killed run is free again after five minutes. A flow holds it from first to last, because
    a teacher stays in the card's memory between stages; flows within it share it. Without a GPU nothing happens.

    Args:
        device: as the recipe's teacher.device has it: "auto", "cpu", "cuda", "cuda:1".
        num: of GPUs; more than one are the machine's first.
    """
    names = [] if _holding.get() else _gpu_names(device, num)
    if not names:
        yield
        return
    with alone(*names):
        yield


@contextmanager
def alone(*names: str) -> Iterator[None]:
    """Hold the global concurrency limits `names`, all at once; one that is not there is made, with one slot."""
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                _make_limit(client, name)
    # A lease that could not be renewed because the server restarts is no reason to throw a training away.
    with concurrency(list(names), strict=True, raise_on_lease_renewal_failure=False):
        token = _holding.set(True)
        try:
            yield
        finally:
            _holding.reset(token)


def _make_limit(client: Any, name: str) -> None:
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    try:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    except ObjectAlreadyExists:  # another worker was quicker
        return


def _gpu_names(device: str, num: int) -> list[str]:
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
    cards = [index] if num == 1 else range(min(num, torch.cuda.device_count()))
    return [f"gpu-{torch.cuda.get_device_properties(card).uuid}" for card in cards]
