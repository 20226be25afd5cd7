"""Uploads and answers on their way; where all places are taken, the slowest makes room.

A client that sends a byte a second, or does not read its answer, so costs those who do nothing.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from inference.server.limits import Limits, Refused


class Transfer:
    """Bytes on their way from or to one client, under a deadline."""

    def __init__(self, held_bytes: int = 0):
        self.held_bytes = held_bytes  # of memory, until it is over
        self.num_bytes = 0
        self.started_s = time.monotonic()
        self._dropped = False
        self._timeout: asyncio.Timeout | None = None

    @property
    def rate(self) -> float:
        """Bytes a second since it began."""
        return self.num_bytes / max(time.monotonic() - self.started_s, 1e-3)

    @contextmanager
    def under(self, timeout: asyncio.Timeout) -> Iterator[None]:
        """Drop it by this timeout, whose block is running."""
        self._timeout = timeout
        if self._dropped:
            _expire(timeout)
        try:
            yield
        finally:
            self._timeout = None

    def drop(self) -> None:
        """End it, as if its time were over."""
        self._dropped = True
        if self._timeout is not None:
            _expire(self._timeout)


def _expire(timeout: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # it is over already
        timeout.reschedule(0)


class Transfers:
    """All of a server's transfers; used from the event loop alone."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._open: set[Transfer] = set()

    @contextmanager
    def track(self, held_bytes: int = 0) -> Iterator[Transfer]:
        """A transfer that is over when the block ends."""
        transfer = Transfer(held_bytes)
        self._open.add(transfer)
        try:
            yield transfer
        finally:
            self._open.discard(transfer)

    def drop_slowest(self, holding: bool = False) -> bool:
        """Drop the slowest that has had its `patience_s`, of those that hold memory if asked; False if none has."""
        now = time.monotonic()
        slow = [
            transfer
            for transfer in self._open
            if now - transfer.started_s >= self._limits.patience_s and (transfer.held_bytes or not holding)
        ]
        if not slow:
            return False
        slowest = min(slow, key=lambda transfer: transfer.rate)
        self._open.discard(slowest)
        slowest.drop()
        return True

    def make_room(self, num_bytes: int) -> None:
        """See that an answer of so many bytes may be held; raises Refused where none of the others is slow."""
        while (held := sum(transfer.held_bytes for transfer in self._open)) and (
            held + num_bytes > self._limits.max_answer_bytes
        ):
            if not self.drop_slowest(holding=True):
                raise Refused(503, "too many answers wait for their clients to read them: try again in a moment")
