"""uvicorn's HTTP protocol, with what it leaves to a proxy.

uvicorn waits for a request's head for as long as the client likes, keeps a closed connection until the last byte
has been read, and waits for all of them when it is told to stop. Here:

- a head has to arrive within `head_s`; 408 or, where nothing came, a closed connection;
- what is left to send when an answer is complete has `stall_s` to leave, and so has a body that nobody wants any
  more, before the connection is cut;
- at a shutdown a client that we wait for, and that neither sends nor reads for `stall_s`, is cut off;
- TCP_NODELAY is set: asyncio leaves it out where a socket does not name its protocol, as accepted ones do not, and
  then an answer's body waits some 40 ms for the acknowledgement of its head;
- a request that breaks HTTP gets its 400 as JSON, like all refusals.

The application finds `abort` in `scope["state"]`: it cuts the connection, whatever is not sent yet.
"""

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, ClassVar

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from inference.server.limits import Limits


def refusal_bytes(status: str, detail: str) -> bytes:
    """A whole answer of one JSON line that closes the connection, for where no application answers."""
    body = json.dumps({"detail": detail}).encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "X-Content-Type-Options: nosniff\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


class _Timer:
    """Calls a function once, some time after it was last started; it can be stopped, and started again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        """Whether the call is yet to come."""
        return self._handle is not None

    def start(self, seconds: float) -> None:
        """Call after so many seconds from now, and not when it was to be called before."""
        self.stop()
        self._handle = self._loop.call_later(seconds, self._end)

    def stop(self) -> None:
        """Call no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _end(self) -> None:
        self._handle = None
        self._call()


class GuardedProtocol(H11Protocol):
    """One connection; see the module."""

    limits: ClassVar[Limits] = Limits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ):
        super().__init__(config, server_state, app_state | {"abort": self._abort}, _loop)
        self._head_timer = _Timer(self.loop, self._head_is_late)
        self._flush_timer = _Timer(self.loop, self._flush_is_late)
        self._stall_timer = _Timer(self.loop, self._watch_stall)
        self._moved_s = self.loop.time()  # when bytes last went either way
        self._num_unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head_timer.start(self.limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave no timer behind, which would keep the connection in memory."""
        for timer in (self._head_timer, self._flush_timer, self._stall_timer):
            timer.stop()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Take bytes in, and see whether a head is still under way."""
        self._moved_s = self.loop.time()
        super().data_received(data)
        self._watch_head()

    def resume_writing(self) -> None:
        """Note that the client reads."""
        self._moved_s = self.loop.time()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """See that what is left to send leaves, and that an unwanted body ends."""
        super().on_response_complete()
        self._flush_timer.start(self.limits.stall_s)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or cut the connection where an answer has begun already."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse("400 Bad Request", "this is no HTTP/1.1 request that makes sense")
        else:
            self.transport.abort()

    def shutdown(self) -> None:
        """Finish what was accepted, for a client that goes along."""
        if self.conn.our_state is h11.ERROR:
            self.transport.close()
        else:
            super().shutdown()
        self._moved_s = self.loop.time()
        self._watch_stall()

    def _watch_head(self) -> None:
        between = self.cycle is None or self.cycle.response_complete
        partial = between and self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if partial and not self.transport.is_closing():
            if not self._head_timer.is_running:
                self._head_timer.start(self.limits.head_s)
        elif self.cycle is not None:
            self._head_timer.stop()

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            self._refuse("408 Request Timeout", f"the request's head took longer than {self.limits.head_s:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: str, detail: str) -> None:
        self.conn.send_failed()  # no more of it through h11
        self.transport.write(refusal_bytes(status, detail))
        self.transport.close()
        self._flush_timer.start(self.limits.stall_s)

    def _flush_is_late(self) -> None:
        unread_body = (
            self.cycle is not None and self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY
        )
        unsent = self.transport.get_write_buffer_size() > 0 and (self.cycle is None or self.cycle.response_complete)
        if unread_body or unsent or self.transport.is_closing():
            self.transport.abort()

    def _watch_stall(self) -> None:
        now = self.loop.time()
        num_unsent = self.transport.get_write_buffer_size()
        uploading = self.cycle is not None and not self.cycle.response_complete and self.cycle.more_body
        if num_unsent != self._num_unsent or not (num_unsent or uploading):
            self._moved_s = now
        self._num_unsent = num_unsent
        if now - self._moved_s >= self.limits.stall_s:
            self.transport.abort()
        else:
            self._stall_timer.start(min(0.5, self.limits.stall_s / 4))

    def _abort(self) -> None:
        self.transport.abort()
