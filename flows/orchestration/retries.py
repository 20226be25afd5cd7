"""Which errors are transient, and how the tasks that meet them are retried."""

import errno
from typing import TYPE_CHECKING, Any

from prefect.tasks import exponential_backoff

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

_TRANSIENT_ERRNOS = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EPIPE, errno.ETIMEDOUT, errno.ESTALE),
    *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETDOWN, errno.ENETUNREACH),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, getattr(errno, "EREMOTEIO", errno.EIO)),  # s3fs: the server's own fault
}
_TRANSIENT_KINDS = {  # of libraries that need not be installed
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
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


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
            return status in _TRANSIENT_STATUS
        if isinstance(link, ConnectionError | TimeoutError) or kinds & _TRANSIENT_KINDS:
            return True
        if isinstance(link, OSError) and link.errno in _TRANSIENT_ERRNOS:
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
