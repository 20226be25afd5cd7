"""The times of a video's packets, which have to grow."""

from fractions import Fraction
from typing import Any

_SEAM = Fraction(1, 10)  # s: what muxers set a packet back by is less


class Clock:
    """Goes on where a file starts anew: one that was joined from several counts each from its own beginning."""

    def __init__(self) -> None:
        self._offset = Fraction(0)  # s
        self._ends: dict[int, Fraction] = {}  # by the stream's index, where its last packet ends, in s

    def set(self, packet: Any) -> None:
        """Give a packet of PyAV its times on this clock. All packets of a file pass here, in its order."""
        if packet.dts is None:
            return
        base = packet.time_base
        now = packet.dts * base + self._offset
        if now < self._ends.get(packet.stream_index, now) - _SEAM - (packet.duration or 0) * base:
            self._offset += max(self._ends.values()) - now  # sound and pictures together, so that they stay so
        shift = round(self._offset / base)
        if shift:
            packet.dts += shift
            packet.pts = None if packet.pts is None else packet.pts + shift
        self._ends[packet.stream_index] = (packet.dts + (packet.duration or 0)) * base
