"""Write a video: encoded frames with their times, and packets as they came."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

from inference.media.video_source import Description

_OF_THE_CONTAINER = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate"}
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


class VideoWriter:
    """Fills a file with one edit of a video. To be used in a `with`; an error in it leaves the file unfinished."""

    def __init__(self, part: Path, described: Description) -> None:
        """Open the file, and take over from the video what is not its pictures.

        Args:
            part: an empty file.
            described: the video.
        """
        self._described = described
        self._durations: dict[int, int] = {}
        self._last_dts: dict[int, int] = {}  # of the streams that are copied, by their index in the video
        kind = described.container
        with ExitStack() as if_it_fails:
            self._file = if_it_fails.enter_context(part.open("r+b"))
            self._output = av.open(
                self._file,
                "w",
                format=kind.format,
                options=kind.options,
                # By which the index of an MP4 gets before its pictures.
                io_open=lambda url, flags, options: part.open("rb"),
            )
            with described.path.open("rb") as file, av.open(file, "r", metadata_errors="replace") as source:
                self._output.metadata.update(_kept(source.metadata))
                self._picture = self._add_picture()
                self._copies = {index: self._add_copy(source.streams[index]) for index in described.copied}
                self._output.set_chapters(source.chapters())
            if_it_fails.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._mux(self._picture.encode())
                self._output.close()
        finally:
            self._file.close()

    def write(self, pixels: npt.NDArray[np.uint8], start: int, duration: int) -> None:
        """Append a frame.

        Args:
            pixels: uint8 (H, W, 3), upright, all of one size.
            start: in units of the video's time base; grows.
            duration: in the same units.
        """
        height, width = pixels.shape[:2]
        if self._described.container.needs_even_sides and (height % 2 or width % 2):
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        colors = self._described.colors
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=colors.matrix,
            dst_color_range=colors.range or 1,
            interpolation=_EXACT,
        )
        frame.colorspace, frame.color_range = colors.space, colors.range
        frame.pts, frame.time_base = start, self._described.time_base
        self._durations[start] = duration
        self._mux(self._picture.encode(frame))

    def copy(self, packet: "Packet[Stream]") -> None:
        """Append a packet of a stream that is copied."""
        shift = round(self._described.shift / packet.time_base)
        if shift:
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
        last = self._last_dts.get(packet.stream_index)
        if packet.dts is not None:
            # No container takes a packet that is not later than the one before it.
            late = 0 if last is None else max(0, last + 1 - packet.dts)
            packet.dts += late
            packet.pts = None if packet.pts is None else packet.pts + late
            self._last_dts[packet.stream_index] = packet.dts
        packet.stream = self._copies[packet.stream_index]
        self._output.mux(packet)

    def _add_picture(self) -> Any:
        described, kind = self._described, self._described.container
        width, height = described.first.size
        stream = self._output.add_stream(kind.encoder, rate=described.rate, options=dict(kind.encoder_options))
        assert isinstance(stream, av.VideoStream)
        odd = int(kind.needs_even_sides)
        stream.width, stream.height = width + odd * (width % 2), height + odd * (height % 2)
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = described.time_base
        if described.pixel_aspect:
            stream.codec_context.sample_aspect_ratio = described.pixel_aspect
        colors = described.colors
        stream.codec_context.colorspace = colors.space
        stream.codec_context.color_primaries = colors.primaries
        stream.codec_context.color_trc = colors.transfer
        stream.codec_context.color_range = colors.range
        return stream

    def _add_copy(self, source: Stream) -> Stream:
        stream = self._output.add_stream_from_template(source)
        stream.metadata.update(_kept(source.metadata))
        stream.disposition = source.disposition
        return stream

    def _mux(self, packets: "list[Packet[Any]]") -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts or 0, packet.duration)
            self._output.mux(packet)


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    """Leave out what a file says of itself alone."""
    return {key: value for key, value in metadata.items() if key.lower() not in _OF_THE_CONTAINER}
