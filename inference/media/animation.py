"""Animations: GIF, WebP and PNG files of several frames, edited frame by frame, by Pillow."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inference.media.medium import Edit, Medium, Progress, edited_in_batches, read, suffix_of
from inference.runtime import ImageError
from synth.images import reader
from synth.images.reader import SUFFIXES, SourceImage, first_line, open_lazily
from synth.images.writer import QUALITY

ANIMATED = ("GIF", "WEBP", "PNG")
"""The formats whose animations are edited whole; of others, such as AVIF, the first frame is."""
_CLEAR = 255  # in a GIF's palette: the color that is transparent
_SEEN = 128  # alpha from which on a pixel of a GIF is opaque


class Animation(Medium):
    """An image file of several frames, each shown for a time of its own."""

    def __init__(self, path: Path, format: str, num_frames: int) -> None:
        super().__init__(path)
        self.format = format
        self.num_frames = num_frames

    @cached_property
    def first(self) -> SourceImage:
        """See Medium."""
        return replace(read(self.path), notes=())

    @property
    def notes(self) -> tuple[str, ...]:
        """See Medium."""
        return ()

    def key(self, format: str | None) -> list[str | None]:
        """See Medium."""
        return [format, "animation"]

    def takes(self, format: str | None) -> bool:
        """See Medium."""
        return format in (None, self.format)

    def suffix(self, format: str | None) -> str:
        """See Medium."""
        return self.own_suffix if self.takes(format) else SUFFIXES[str(format)][0]

    @property
    def own_suffix(self) -> str:
        """See Medium."""
        return suffix_of(self.path, self.format)

    def write(self, edit: Edit, part: Path, format: str | None, progress: Progress[SourceImage]) -> SourceImage:
        """See Medium."""
        infos: list[dict[str, Any]] = []
        edited = progress(edited_in_batches(self._frames(infos), edit), self.path, self.num_frames)
        format = format or self.format
        pictures, first = [], None
        for frame in edited:
            first = first or frame
            pictures.append(_with_palette(frame) if format == "GIF" else frame.to_pil())
        assert first is not None
        options = _options(format, infos, self.first, any("transparency" in picture.info for picture in pictures))
        for picture in pictures:
            picture.info = {key: value for key, value in picture.info.items() if key == "transparency"}
        try:
            pictures[0].save(part, format, save_all=True, append_images=pictures[1:], **options)
        except OSError:
            raise  # the disk's, mostly
        except Exception as error:  # encoders share no base class
            raise ImageError(f"{self.path} cannot be written as {format}: {first_line(error)}") from error
        return first

    def _frames(self, infos: list[dict[str, Any]]) -> Iterator[SourceImage]:
        """Read the frames one by one, whole as they are shown; what the file says of each goes to `infos`."""
        try:
            with open_lazily(self.path) as image:
                for number in range(self.num_frames):
                    image.seek(number)
                    frame = reader.read_image(image)
                    # WebP says how long a frame lasts only once it is decoded.
                    infos.append({str(key): value for key, value in image.info.items()})
                    yield replace(frame, notes=())
        except reader.ImageError as error:
            # A frame has no name of its own.
            raise ImageError(
                f"{self.path}{str(error).removeprefix('the image').removeprefix(str(self.path))}"
            ) from error
        except (OSError, EOFError, SyntaxError, ValueError) as error:  # Pillow's, of a broken frame
            raise ImageError(f"{self.path} cannot be read as an image: {first_line(error)}") from error


def open_animation(path: Path) -> Animation | None:
    """Return the animation in a file; None for an image of one frame, and for what has no frames to be counted."""
    if (format := reader.sniff_format(path)) not in ANIMATED:
        return None
    try:
        with open_lazily(path) as image:
            num_frames = getattr(image, "n_frames", 1)
    except Exception:  # counting reads the file: whoever reads it as an image says what is wrong with it
        return None
    return Animation(path, str(format), num_frames) if num_frames > 1 else None


def _options(format: str, infos: list[dict[str, Any]], first: SourceImage, is_clear: bool) -> dict[str, Any]:
    """Return what Pillow's writer is told beside the frames."""
    options: dict[str, Any] = {"duration": [info.get("duration", 0) for info in infos]}
    # A GIF without a loop count is shown once.
    if "loop" in infos[0]:
        options["loop"] = infos[0]["loop"]
    if format == "GIF":
        # Where frames have holes, what was shown before must go first.
        return options | {"disposal": 2 if is_clear else 1, "optimize": False}
    if format == "WEBP":
        options |= {"lossless": True, "exact": True} if first.is_lossless else {"quality": QUALITY}
    elif infos[0].get("default_image"):
        # What is shown where animations are not: it has no time of its own.
        options |= {"default_image": True, "duration": options["duration"][1:]}
    kept = {"icc_profile": first.icc_profile, "exif": first.exif}
    return options | {key: value for key, value in kept.items() if value}


def _with_palette(frame: SourceImage) -> Image.Image:
    """Return a frame in the 256 colors of a GIF, or in 255 and a transparent one; its own where it has no more."""
    rgb = frame.srgb()
    if frame.alpha is None or frame.alpha.min() >= _SEEN:
        return Image.fromarray(rgb).quantize(256, Image.Quantize.MEDIANCUT, kmeans=1)
    holes = frame.alpha < _SEEN  # (H, W)
    # What is not seen takes no colors away from what is.
    rgb = np.where(holes[..., None], 0 if holes.all() else rgb[~holes][0], rgb).astype(np.uint8)
    opaque = Image.fromarray(rgb).quantize(_CLEAR, Image.Quantize.MEDIANCUT, kmeans=1)
    picture = Image.fromarray(np.where(holes, np.uint8(_CLEAR), np.asarray(opaque)))
    palette = opaque.getpalette() or []
    picture.putpalette([*palette, *([0] * (3 * 256 - len(palette)))])
    picture.info["transparency"] = _CLEAR
    return picture
