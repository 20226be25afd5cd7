"""The listening socket: it takes as many connections as there are file descriptors for, and refuses the others.

A process without free descriptors can accept nothing, and so cannot even say so; asyncio then logs a traceback for
each connection in line. So the limit follows from what the process may open, some descriptors are held in reserve,
and one of them is given up for a moment where accepting fails all the same.
"""

import asyncio
import errno
import logging
import os
import socket
from contextlib import suppress
from types import ModuleType
from typing import Any

from inference.server.protocol import refusal_bytes

resource: ModuleType | None
try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None

MAX_CONNECTIONS = 8192
MAX_DESCRIPTORS = 65_536  # more are of no use to us, and costly where a child process closes them one by one
RESERVED = 64  # for the models, the pool, the log
LINGER_S = 1.0  # a refused connection, until its client has read why
MAX_LINGERING = 16
MAX_REFUSED_AT_ONCE = 64  # before the event loop gets its turn

_logger = logging.getLogger("uvicorn.error")
_BUSY = refusal_bytes("503 Service Unavailable", "too many connections: try again in a moment")


def raise_descriptor_limit() -> None:
    """Let the process open as many files as it may, up to MAX_DESCRIPTORS."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def max_connections() -> int:
    """How many there are descriptors for: each connection may need a second one, for its upload."""
    if resource is None:
        return 512  # what select() takes on Windows
    soft: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, (soft - RESERVED) // 2))


class _Connection(socket.socket):
    """An accepted connection that its listener counts until it is closed."""

    open_connections: set["_Connection"]

    def close(self) -> None:
        """Close it, and make room for another."""
        self.open_connections.discard(self)
        super().close()


class Listener(socket.socket):
    """A listening socket with a limit; `accept` refuses by itself what is beyond."""

    def __init__(self, listening: socket.socket, limit: int | None = None):
        """listening: a socket that listens, whose descriptor is taken over; limit: [default: `max_connections()`]."""
        super().__init__(listening.family, listening.type, listening.proto, fileno=listening.detach())
        self.limit = limit
        self._open: set[_Connection] = set()
        self._lingering: set[socket.socket] = set()
        self._spare = self._open_spare()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection; BlockingIOError where there is none, or many were refused just now."""
        limit = self.limit or max_connections()
        for _ in range(MAX_REFUSED_AT_ONCE):
            try:
                connection, address = super().accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                self._refuse_with_spare()
                continue
            if len(self._open) >= limit:
                self._refuse(connection)
                continue
            counted = _Connection(connection.family, connection.type, connection.proto, fileno=connection.detach())
            counted.open_connections = self._open
            self._open.add(counted)
            return counted, address
        raise BlockingIOError(errno.EAGAIN, "refused many")

    def close(self) -> None:
        """Stop listening, and give the reserve back."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        for connection in list(self._lingering):
            self._end(connection)
        super().close()

    @staticmethod
    def _open_spare() -> int | None:
        with suppress(OSError):
            return os.open(os.devnull, os.O_RDONLY)
        return None

    def _refuse_with_spare(self) -> None:
        """Without a free descriptor: give the spare one up, for as long as it takes to refuse."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        try:
            self._refuse(super().accept()[0], linger=False)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise BlockingIOError(errno.EAGAIN, "no descriptors") from error
            raise
        finally:
            self._spare = self._open_spare()

    def _refuse(self, connection: socket.socket, linger: bool = True) -> None:
        _logger.warning("no room for a connection: %d are open", len(self._open))
        connection.setblocking(False)
        with suppress(OSError):
            connection.recv(2**16)  # bytes left unread would reset the connection before the client has the answer
        with suppress(OSError):
            connection.send(_BUSY)
            connection.shutdown(socket.SHUT_WR)
        if linger and len(self._lingering) < MAX_LINGERING:
            self._lingering.add(connection)
            asyncio.get_running_loop().call_later(LINGER_S, self._end, connection)
        else:
            connection.close()

    def _end(self, connection: socket.socket) -> None:
        self._lingering.discard(connection)
        connection.close()
