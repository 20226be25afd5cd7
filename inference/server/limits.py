"""What one server takes on at once, and how it says no."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi.responses import JSONResponse

MAX_DETAIL_BYTES = 2000
BYTES_PER_PIXEL = 48
"""What an image in work needs at most, until it is a PNG: a lossless WebP with alpha 42, others about 27."""


@dataclass(frozen=True)
class Limits:
    """What one server takes on at once.

    An image in work needs at most BYTES_PER_PIXEL, beside the network's own memory, whatever its shape and kind: all
    of them together max_pixels_in_work * BYTES_PER_PIXEL, and the answers max_answer_bytes more.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 64_000_000
    """Of one image: the largest phones take 50 million in one shot."""
    max_pixels_in_work: int = 128_000_000
    """Of all images in work; one alone may be larger."""
    max_side: int = 16_384
    max_aspect: float = 50.0
    """Of the longer side to the shorter one."""
    max_in_work: int = 8
    """Images decoded, edited and encoded at the same time."""
    max_waiting: int = 64
    """Uploaded images in line for that."""
    max_requests: int = 256
    """Translations from their first byte to the last byte of their answer."""
    max_answer_bytes: int = 256 * 2**20
    """Of finished images that wait for their clients to read them, all together; one alone may be larger."""
    head_s: float = 10.0
    """For a request's head to arrive, from the connection or its first byte."""
    upload_s: float = 60.0
    min_upload_rate: int = 8192
    """Bytes a second on average, after the first `patience_s`."""
    waiting_s: float = 60.0
    send_s: float = 30.0
    """For an answer to leave, and a second more for each `min_send_rate` bytes of it."""
    min_send_rate: int = 256 * 1024
    patience_s: float = 2.0
    """Before an upload or answer counts as slow: the slowest makes room where all places are taken."""
    stall_s: float = 10.0
    """How long a client may neither send nor read before a shutdown goes on without it."""


class PixelBudget:
    """The pixels of all images in work. An image that finds too many waits, in its thread, until others are done."""

    def __init__(self, limits: "Limits"):
        self._limits = limits
        self._changed = threading.Condition()
        self._num_taken = 0

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yield what takes an image's pixels, once its size is known; they are given back when the block ends.

        Raises Refused with 503 where they are not free within `waiting_s`.
        """
        num_mine = 0

        def take(num_pixels: int) -> None:
            nonlocal num_mine
            with self._changed:
                if not self._changed.wait_for(lambda: self._fits(num_pixels), self._limits.waiting_s):
                    raise Refused(503, f"no room for its pixels within {self._limits.waiting_s:g} s: try again later")
                self._num_taken += num_pixels
                num_mine += num_pixels

        try:
            yield take
        finally:
            with self._changed:
                self._num_taken -= num_mine
                self._changed.notify_all()

    def _fits(self, num_pixels: int) -> bool:
        return not self._num_taken or self._num_taken + num_pixels <= self._limits.max_pixels_in_work


class Refused(Exception):
    """An answer other than 200: its status, one line, and headers."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None):
        encoded = detail.encode(errors="replace")
        if len(encoded) > MAX_DETAIL_BYTES:
            detail = encoded[:MAX_DETAIL_BYTES].decode(errors="ignore") + "..."
        super().__init__(detail)
        self.status = status
        self.headers = headers or ({"Retry-After": "1"} if status in (429, 503) else {})

    def response(self) -> JSONResponse:
        """The refusal as it goes out."""
        return JSONResponse({"detail": str(self)}, self.status, self.headers)
