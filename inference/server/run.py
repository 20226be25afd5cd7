"""uvicorn around the application, from a listening socket to the last answer."""

import ctypes
import logging
import socket
import time
import warnings
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from PIL import Image

from inference.server.listener import Listener, raise_descriptor_limit
from inference.server.models import ServerError
from inference.server.protocol import GuardedProtocol
from inference.server.web import fetch


class OneLineASecond(logging.Filter):
    """Let one line a second through, with how many were left out: a flood of bad clients fills no disk."""

    def __init__(self) -> None:
        super().__init__()
        self._last_s = float("-inf")
        self._num_left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is logged."""
        now = time.monotonic()
        if now - self._last_s < 1:
            self._num_left_out += 1
            return False
        if self._num_left_out:
            record.msg = f"{record.getMessage()} (and {self._num_left_out} lines more)"
            record.args = ()
        self._last_s, self._num_left_out = now, 0
        return True


def give_memory_back() -> None:
    """Have the C library hand large blocks back when they are freed, where it is one that can be told (glibc).

    Otherwise it raises its own threshold to the largest block that was ever freed, and each thread's arena then keeps
    the planes of the largest images: 1.1 GB after eight of 9 million pixels, 0.2 with it.
    """
    mmap_threshold = -3  # M_MMAP_THRESHOLD in malloc.h
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(mmap_threshold, 2**20)


def make_server(app: FastAPI, graceful_s: int = 60) -> uvicorn.Server:
    """uvicorn around the application. When told to stop it takes no more, and answers what it has accepted."""
    config = uvicorn.Config(
        app,
        loop="asyncio",  # which asks our listener for its connections
        http=type("Protocol", (GuardedProtocol,), {"limits": app.state.limits}),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,  # longer than clients keep one, or a request meets a closing connection
        timeout_graceful_shutdown=graceful_s,
        server_header=False,
    )
    # Those that clients can make write a line: the last one does for each form that makes no sense.
    for name in ("uvicorn.error", "asyncio", "python_multipart.multipart"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, OneLineASecond) for known in logger.filters):
            logger.addFilter(OneLineASecond())
    return uvicorn.Server(config)


def listen(host: str, port: int, max_connections: int | None = None) -> Listener:
    """A listening socket; port 0 takes any that is free. Raises ServerError when the address cannot be had.

    max_connections: at once; as many as the process has file descriptors for, if left out.
    """
    try:
        plain = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ServerError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return Listener(plain, max_connections)


def serve(app: FastAPI, listener: Listener, tell: Callable[[str], None]) -> None:
    """Answer on `listener` until SIGINT or SIGTERM; what was accepted is finished first."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # Limits decide, and say so
    raise_descriptor_limit()
    give_memory_back()
    host, port = listener.getsockname()[:2]
    docs = " (docs at /docs)" if app.openapi_url else ""
    tell(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}{docs}; Ctrl-C ends it")
    if not fetch.is_there():
        tell("its page needs onnxruntime-web: `make web` in the project fetches it; all else works without")
    with suppress(KeyboardInterrupt):  # uvicorn raises it again once all is answered, unless the shell ignores it
        make_server(app).run(sockets=[listener])
    tell("stopped")
