"""Which container and encoder a video goes out in, and what of its file fits in there."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.errors import ImageInputError

if TYPE_CHECKING:
    from av.stream import Stream

# Hardly to be told from the input by eye; with all frames in order, times are exact in every container.
H264_OPTIONS = {"crf": "16", "preset": "medium", "bf": "0"}
VP9_OPTIONS = {"crf": "18", "b:v": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}


@dataclass(frozen=True)
class Container:
    """A kind of file that videos are written as."""

    suffixes: tuple[str, ...]
    """The endings that keep it, the usual one first."""
    format: str
    """The name of FFmpeg's muxer."""
    encoder: str = "libx264"
    encoder_options: dict[str, str] = field(default_factory=lambda: dict(H264_OPTIONS))
    options: dict[str, str] = field(default_factory=dict)
    needs_even_sides: bool = True
    """H.264 halves the colors' sides, and its sizes are whole pairs of pixels."""


_START_FIRST = {"movflags": "+faststart"}  # a browser shows it before it has all of it
MP4 = Container((".mp4", ".m4v"), "mp4", options=_START_FIRST)
MOV = Container((".mov", ".qt"), "mov", options=_START_FIRST)
MKV = Container((".mkv",), "matroska")
WEBM = Container((".webm",), "webm", "libvpx-vp9", VP9_OPTIONS, needs_even_sides=False)


def container_for(path: Path, others: "list[Stream]") -> Container:
    """Choose the container: a file's own where it is one that is written, else MP4, or MKV for other sound.

    Args:
        path: the video.
        others: its streams beside the picture.

    Raises:
        ImageInputError: if the encoder is not there.
    """
    suffix = path.suffix.lower()
    own = next((each for each in (MP4, MOV, MKV, WEBM) if suffix in each.suffixes), MP4)
    sounds = [stream for stream in others if stream.type == "audio"]
    chosen = own if len(fitting(own, sounds)) == len(sounds) else MKV
    import av

    try:
        av.Codec(chosen.encoder, "w")
    except av.FFmpegError as error:
        raise ImageInputError(
            f"{path} cannot be written: the FFmpeg of this PyAV has no encoder {chosen.encoder}; "
            "install PyAV's own wheel: pip install --force-reinstall --only-binary av av"
        ) from error
    return chosen


def fitting(container: Container, streams: "list[Stream]") -> "list[Stream]":
    """Return the streams that can be copied into a container."""
    import av

    with av.open(io.BytesIO(), "w", format=container.format) as empty:
        known = empty.supported_codecs
    return [stream for stream in streams if codec_of(stream) in known]


def codec_of(stream: "Stream") -> str | None:
    """Return the name of a stream's codec, whichever decoder there is for it."""
    context: Any = stream.codec_context
    return None if context is None else str(context.codec.canonical_name)
