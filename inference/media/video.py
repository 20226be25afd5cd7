"""Videos, edited frame by frame and written with their own times and sound, by PyAV (the extra `video`)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from inference.media.medium import Edit, Medium, Progress, edited_in_batches
from synth.errors import ImageInputError, first_line
from synth.images.listing import VIDEO_PACKAGE, has_video_package, is_video_name
from synth.images.reader import SourceImage, sniff_format

if TYPE_CHECKING:
    from inference.media.video_source import Description

_MAGIC = re.compile(
    rb"....ftyp(iso|mp4|avc|M4V|qt  |3g|dash|MSNV|f4v)|\x1aE\xdf\xa3|RIFF....AVI |....(moov|mdat|wide)|G.{187}G",
    re.DOTALL,
)  # MP4 and MOV, Matroska and WebM, AVI, MPEG-TS


class Video(Medium):
    """A video file. It goes out in its own container where that is one of `container`'s, else as MP4."""

    @cached_property
    def _description(self) -> "Description":
        if not has_video_package():
            raise ImageInputError(f"{self.path} is a video, which needs {VIDEO_PACKAGE}")
        from inference.media.video_source import describe

        return describe(self.path)

    @property
    def first(self) -> SourceImage:
        """See Medium."""
        return self._description.first

    @property
    def notes(self) -> tuple[str, ...]:
        """See Medium."""
        return self._description.notes

    def key(self, format: str | None) -> list[str | None]:
        """See Medium."""
        return [None, "video"]

    def takes(self, format: str | None) -> bool:
        """See Medium: `format` is that of images."""
        return True

    def suffix(self, format: str | None) -> str:
        """See Medium."""
        own, usual = self.path.suffix.lower(), self._description.container.suffixes
        return own if own in usual else usual[0]

    @property
    def own_suffix(self) -> str:
        """See Medium."""
        return self.path.suffix.lower() or self.suffix(None)

    def write(self, edit: Edit, part: Path, format: str | None, progress: Progress[SourceImage]) -> SourceImage:
        """See Medium."""
        from inference.media.video_source import frames
        from inference.media.video_target import VideoWriter

        first = None
        with self._explained(), VideoWriter(part, self._description) as writer:
            times: list[tuple[int, int]] = []

            def images() -> Iterator[SourceImage]:
                for frame in frames(self._description, writer.copy):
                    times.append((frame.start, frame.duration))
                    yield SourceImage(frame.pixels)

            edited = edited_in_batches(images(), edit)
            for image in progress(edited, self.path, self._description.num_frames):
                first = first or image
                writer.write(image.pixels, *times.pop(0))
        assert first is not None, "describe() has seen a frame"
        return replace(first, notes=())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in one line what a container does not take; a full disk is for the caller to explain."""
        import av

        try:
            yield
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            reason = error.strerror or first_line(error)
            raise ImageInputError(f"{self.path} cannot be written again: {reason}") from error


def is_video(path: Path) -> bool:
    """Return whether a file is a video by its first bytes, or by its name where they are no image's."""
    if sniff_format(path) is not None:
        return False
    try:
        with path.open("rb") as file:
            head = file.read(192)
    except OSError:
        return False  # whoever reads it says why
    return _MAGIC.match(head) is not None or is_video_name(path.name)
