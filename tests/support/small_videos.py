"""Small videos with sound, made on the spot by PyAV."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type

SIZE = (64, 48)
NUM_FRAMES = 12
COLORS = ((200, 60, 50), (60, 170, 80), (70, 80, 190), (150, 150, 90))  # of the quarters, row by row


def picture(number: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Four quarters that grow brighter from frame to frame, uint8 (H, W, 3)."""
    width, height = size
    quarters = np.array(COLORS, np.uint8).reshape(2, 2, 3) + np.uint8(2 * number)
    return quarters[np.arange(height)[:, None] * 2 // height, np.arange(width)[None] * 2 // width]


def write_video(
    path: Path,
    size: tuple[int, int] = SIZE,
    times: tuple[int, ...] = tuple(range(NUM_FRAMES)),
    codec: str = "libx264",
    sound: str | None = "aac",
    turn: tuple[float, bool, bool] | None = None,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    **context: Any,
) -> Path:
    """Write a video of 24 frames a second, with half a second of a sine as its sound.

    Args:
        path: its ending is its container.
        size: (width, height) in pixels.
        times: of the frames, in frames.
        codec: encodes the pictures.
        sound: encodes the sound (None: silent).
        turn: the display rotation: degrees, mirrored across, mirrored down.
        pixels: FFmpeg's pixel format.
        options: of the container.
        context: attributes of the encoder, such as `color_trc`.
    """
    with av.open(str(path), "w", options=options or {}) as output:
        output.metadata["title"] = "quarters"
        stream = output.add_stream(codec, rate=24, options={"crf": "4", "bf": "0"} if "264" in codec else {})
        (stream.width, stream.height), stream.pix_fmt = size, pixels
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        if turn:
            stream.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
        heard = output.add_stream(sound, rate=48000, layout="mono") if sound else None
        if heard is not None:
            wave = np.sin(np.arange(24000) * 2 * np.pi * 440 / 48000).astype(np.float32)[None] * 0.3
            samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            samples.rate, samples.pts, samples.time_base = 48000, 0, Fraction(1, 48000)
            resampler = av.AudioResampler(format=heard.format, layout=heard.layout, rate=48000)
            for fitting in [*resampler.resample(samples), None]:
                output.mux(heard.encode(fitting))
        for number, time in enumerate(times):
            space = context.get("colorspace", 5)
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24").reformat(
                format=pixels,
                dst_colorspace=5 if space == 2 else space,
                dst_color_range=context.get("color_range", 1),
            )
            frame.pts, frame.time_base = time, Fraction(1, 24)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


@dataclass(frozen=True)
class Seen:
    """What is in a video file."""

    frames: list[np.ndarray]
    """uint8 (H, W, 3), as they are stored: not turned."""
    times: list[float]
    """In seconds."""
    duration: float
    """In seconds."""
    sound: list[bytes]
    """The packets of the other streams."""
    sound_times: list[float]
    rate: Fraction
    turned: bool
    """Whether the file asks players to turn it."""
    codec: str
    colors: tuple[int, int, int, int]
    """Matrix, range, transfer, primaries."""
    pixel_aspect: Fraction | None
    title: str
    bytes_of_index_first: bool


def see(path: Path) -> Seen:
    """Read a video file whole."""
    content = path.read_bytes()
    frames, times, sound, sound_times = [], [], [], []
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        for packet in source.demux():
            if packet.stream_index != stream.index:
                if packet.dts is not None:
                    sound.append(bytes(packet))
                    sound_times.append(float(packet.pts * packet.time_base))
                continue
            for frame in packet.decode():
                frames.append(frame)
                times.append(float(frame.pts * frame.time_base))
        first = frames[0]
        matrix = first.colorspace if first.colorspace in (1, 9) else 5
        return Seen(
            [frame.to_ndarray(format="rgb24", src_colorspace=matrix) for frame in frames],
            times,
            float(Fraction(source.duration or 0, av.time_base)),
            sound,
            sound_times,
            stream.average_rate,
            any(data.type == Type.DISPLAYMATRIX for data in first.side_data),
            stream.codec_context.codec.canonical_name,
            (first.colorspace, first.color_range, first.color_trc, first.color_primaries),
            stream.sample_aspect_ratio,
            source.metadata.get("title", ""),
            0 < content.find(b"moov") < content.find(b"mdat"),
        )
