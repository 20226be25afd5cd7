"""Which errors are transient, and how tasks are retried after them."""

import errno
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

_TRANSIENT_ERRNOS = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EPIPE, errno.ETIMEDOUT, errno.ESTALE),
    *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETDOWN, errno.ENETUNREACH),
    *(
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        getattr(errno, "EREMOTEIO", errno.EIO),
    ),  # how s3fs reports an error of the server
}
_TRANSIENT_TYPES = {  # by name, because their libraries need not be installed
    "aiohttp.client_exceptions.ClientError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "httpx.TransportError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
}
_PERMANENT_TYPES = {
    "huggingface_hub.errors.OfflineModeIsEnabled",  # a ConnectionError, but the user asked for it
    "prefect.task_engine.TaskRunTimeoutError",  # a TimeoutError, but another attempt would take as long
}
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


def is_transient(error: BaseException) -> bool:
    """Whether an error of the network or the storage may be gone at the next attempt.

    A wrong recipe, a missing file, a missing permission and a full disk are permanent. The project's own errors wrap
    those of libraries, so the chain of causes is searched for the first error that decides.
    """
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        types = {f"{base.__module__}.{base.__qualname__}" for base in type(link).__mro__}
        if types & _PERMANENT_TYPES:
            return False
        status = _status(link)
        if status is not None:
            return status in _TRANSIENT_STATUS
        if isinstance(link, ConnectionError | TimeoutError) or types & _TRANSIENT_TYPES:
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
    "retry_delay_seconds": [10, 20, 40, 80],
    "retry_jitter_factor": 0.5,  # workers that lost the same server must not all return at once
    "retry_condition_fn": _is_worth_a_retry,
}
"""Options of tasks that use storage or the network. A retried task resumes from what is on disk."""
