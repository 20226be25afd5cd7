"""Read a video: its frames, upright RGB with their times, and what goes into the result as it is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from inference.media.clock import Clock
from inference.media.container import Container, codec_of, container_for, fitting
from synth.errors import ImageInputError
from synth.images.reader import SourceImage, first_line

UInt8Array = npt.NDArray[np.uint8]

# Not all of FFmpeg's: a playlist would make it open other files, and addresses.
_DEMUXERS = "mov,matroska,avi,mpegts,mpeg,asf,flv,ogg"
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273
_RGB, _UNSPECIFIED, _BT709, _BT601, _BT2020 = 0, 2, 1, 5, 9  # matrices of H.273
_MATRICES = {_BT709: _BT709, 4: 4, _BT601: _BT601, 6: _BT601, 7: 7, _BT2020: _BT2020, 10: _BT2020}
_FULL_RANGE = 2
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_SLACK = Fraction(1, 10)  # s: what containers round times by


@dataclass(frozen=True)
class Colors:
    """How a video's numbers stand for colors, in the numbers of ITU-T H.273."""

    matrix: int
    """With which RGB is computed, there and back: guessed by size, as players do, where the video does not say."""
    space: int
    """What the result says, as the video does."""
    primaries: int
    transfer: int
    range: int


@dataclass(frozen=True)
class Description:
    """What has to be known of a video before its frames are read."""

    path: Path
    first: SourceImage
    """The first frame, upright."""
    container: Container
    rate: Fraction | None
    """Frames a second, in the mean."""
    time_base: Fraction
    """The unit of frames' times, in seconds."""
    num_frames: int | None
    """As far as the file says or lets guess."""
    shift: Fraction
    """In seconds: what is taken from all times, where another container begins elsewhere than at 0."""
    coded_size: tuple[int, int]
    """(width, height) in pixels, before they are turned."""
    turn: tuple[int, int, int, int]
    """The display matrix's a, b, c, d: signs alone."""
    pixel_aspect: Fraction | None
    """Of an upright pixel, width to height."""
    colors: Colors
    copied: tuple[int, ...]
    """The indices of the streams that are copied."""
    notes: tuple[str, ...]


class Frame(NamedTuple):
    """A frame of a video."""

    pixels: UInt8Array
    """(H, W, 3), upright."""
    start: int
    """In units of the time base."""
    duration: int


def describe(path: Path) -> Description:
    """Read what a video says of itself, and its first frame.

    Raises:
        ImageInputError: if it cannot be read, is refused, or is cut short as far as its index tells.
    """
    with path.open("rb") as file, _opened(path, file) as opened:
        stream = _picture(opened, path)
        if (frame := next(_decoded(opened, stream, path), None)) is None:
            raise ImageInputError(f"{path} cannot be read as a video: it has no frame")
        _check(frame, path)
        if any(entry.pos + entry.size > opened.size for entry in stream.index_entries):
            raise ImageInputError(f"{path} is cut short: its index names more than the file has; copy it again")
        turn, colors = _turn(frame), _colors(frame)
        others = [each for each in opened.streams if each.index != stream.index]
        container = container_for(path, others)
        copied = fitting(container, [each for each in others if each.type in ("audio", "subtitle")])
        aspect = stream.sample_aspect_ratio or None
        is_foreign = path.suffix.lower() not in container.suffixes
        assert stream.time_base is not None
        return Description(
            path=path,
            first=SourceImage(_upright(_rgb(frame, frame.width, frame.height, colors), turn)),
            container=container,
            rate=stream.average_rate or stream.guessed_rate,
            time_base=stream.time_base,
            num_frames=stream.frames or _guessed_frames(opened, stream),
            shift=Fraction(opened.start_time or 0, av.time_base) if is_foreign else Fraction(0),
            coded_size=(frame.width, frame.height),
            turn=turn,
            pixel_aspect=1 / aspect if aspect and turn[0] == 0 else aspect,
            colors=colors,
            copied=tuple(each.index for each in copied),
            notes=(*_notes(frame, container), *_left_out(others, copied)),
        )


def frames(described: Description, copy: Callable[["Packet[Stream]"], None]) -> Iterator[Frame]:
    """Read all frames in order.

    Args:
        described: the video.
        copy: takes the packets of the streams that are copied, in between.

    Raises:
        ImageInputError: if the video breaks off, or a part of it cannot be decoded.
    """
    with described.path.open("rb") as file, _opened(described.path, file) as opened:
        stream = _picture(opened, described.path)
        stream.thread_type = "AUTO"
        shift = round(described.shift / described.time_base)
        usual = round(1 / (described.rate * described.time_base)) if described.rate else 1
        held: Frame | None = None
        for frame in _decoded(opened, stream, described.path, described.copied, copy):
            expected = held.start + held.duration if held is not None else 0
            start = expected if frame.pts is None else frame.pts - shift
            if held is not None:
                # Times have to grow, or no container takes them.
                start = max(start, held.start + 1)
                # A frame is shown until the next one comes, whatever the file says.
                yield held._replace(duration=start - held.start)
            rgb = _rgb(frame, *described.coded_size, described.colors)
            held = Frame(_upright(rgb, described.turn), start, max(1, frame.duration or usual))
        if held is not None:
            yield held


def _opened(path: Path, file: Any) -> InputContainer:
    try:
        opened: InputContainer = av.open(
            file, "r", options={"format_whitelist": _DEMUXERS}, metadata_errors="replace"
        )
        return opened
    except (av.FFmpegError, OSError) as error:
        raise ImageInputError(f"{path} cannot be read as a video: {_reason(error)}") from error


def _picture(opened: InputContainer, path: Path) -> VideoStream:
    """Return the stream of moving pictures: the first that is no cover."""
    found = [each for each in opened.streams.video if not each.disposition & Disposition.attached_pic]
    if not found:
        raise ImageInputError(f"{path} cannot be read as a video: it has no pictures, only sound")
    if found[0].codec_context is None:
        raise ImageInputError(f"{path} cannot be read as a video: there is no decoder for its codec here")
    return found[0]


def _decoded(
    opened: InputContainer,
    stream: VideoStream,
    path: Path,
    copied: tuple[int, ...] = (),
    copy: Callable[["Packet[Stream]"], None] = lambda packet: None,
) -> Iterator[VideoFrame]:
    """Decode a stream, and pass the packets of some others on."""
    end, clock = Fraction(0), Clock()
    for packet in _packets(opened, path):
        clock.set(packet)
        if packet.pts is not None:
            end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        # Without a time of decoding it is what FFmpeg ends each stream with.
        if packet.stream_index in copied and packet.dts is not None:
            copy(packet)
        if packet.stream_index != stream.index:
            continue
        if packet.is_corrupt:
            raise ImageInputError(f"{path} is cut short, or broken after {float(end):.1f} s: copy it again")
        try:
            found = packet.decode()
        except av.FFmpegError as error:
            raise ImageInputError(f"{path} is broken after {float(end):.1f} s: {_reason(error)}") from error
        yield from found
    declared = Fraction(opened.duration or 0, av.time_base) + Fraction(opened.start_time or 0, av.time_base)
    if end + _SLACK < declared:
        raise ImageInputError(
            f"{path} is cut short: it says that it lasts {float(declared):.1f} s, and ends after {float(end):.1f} s"
        )


def _packets(opened: InputContainer, path: Path) -> Iterator[Any]:
    try:
        yield from opened.demux()
    except (av.FFmpegError, OSError) as error:
        raise ImageInputError(f"{path} cannot be read to its end: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or first_line(error))


def _check(frame: VideoFrame, path: Path) -> None:
    """Refuse what would come out wrong."""
    if kind := _HDR.get(frame.color_trc):
        raise ImageInputError(
            f"{path} is an HDR video ({kind}), whose colors networks for photographs do not know: "
            "convert it to SDR (BT.709) first"
        )


def _notes(frame: VideoFrame, container: Container) -> Iterator[str]:
    """Say what of the pictures does not go out again."""
    bits = max(component.bits for component in frame.format.components)
    if bits > 8:
        yield f"its {bits} bits a color become 8"
    if any(component.is_alpha for component in frame.format.components):
        yield "its transparency is left out"
    if frame.interlaced_frame:
        yield "its fields are edited two by two, as whole frames"
    if container.needs_even_sides and (frame.width % 2 or frame.height % 2):
        yield "its odd sides become even, by a line of pixels once more: H.264 has no others"


def _left_out(others: list[Stream], copied: list[Stream]) -> Iterator[str]:
    """Name the streams that are not copied."""
    kept = {stream.index for stream in copied}
    names = [f"{each.type} ({codec_of(each) or 'unknown'})" for each in others if each.index not in kept]
    if names:
        yield f"left out of its streams: {', '.join(names)}"


def _guessed_frames(opened: InputContainer, stream: VideoStream) -> int | None:
    rate = stream.average_rate
    return round(Fraction(opened.duration, av.time_base) * rate) if opened.duration and rate else None


def _colors(frame: VideoFrame) -> Colors:
    """Return what a frame says of its colors."""
    guess = _BT709 if frame.width >= 1280 or frame.height > 576 else _BT601
    is_rgb = frame.format.is_rgb
    matrix = guess if is_rgb else _MATRICES.get(frame.colorspace, guess)
    space = matrix if is_rgb else frame.colorspace
    return Colors(matrix, space, frame.color_primaries, frame.color_trc, 1 if is_rgb else frame.color_range)


def _rgb(frame: VideoFrame, width: int, height: int, colors: Colors) -> UInt8Array:
    """Convert a frame to uint8 (height, width, 3)."""
    if frame.format.is_rgb:
        converted = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=_EXACT)
    else:
        converted = frame.to_ndarray(
            format="rgb24",
            width=width,
            height=height,
            src_colorspace=colors.matrix,
            src_color_range=frame.color_range,
            interpolation=_EXACT,
        )
    return np.asarray(converted, np.uint8)


def _turn(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return the signs of a frame's display matrix; the identity's where there is none."""
    side_data: Any = frame.side_data
    found = [data for data in side_data if data.type == Type.DISPLAYMATRIX]
    if not found:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(found[0]), np.int32)[:5].tolist()
    # Phones turn by right angles alone; what else there is counts as the nearest.
    if abs(a) >= abs(b):
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def _upright(pixels: UInt8Array, turn: tuple[int, int, int, int]) -> UInt8Array:
    """Turn and mirror uint8 (H, W, 3) as a display matrix says: x' = ax + cy, y' = bx + dy."""
    a, b, c, d = turn
    if a == 0:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1])
