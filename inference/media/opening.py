"""Tell what a file holds: an image, an animation or a video."""

from pathlib import Path

from inference.media.animation import ANIMATED, open_animation
from inference.media.medium import Medium, Still
from inference.media.video import Video, is_video


def open_medium(path: Path, format: str | None = None) -> Medium:
    """Return what is in a file, by its content; what is broken counts as an image, and says so once it is read.

    Args:
        path: the file.
        format: in which its result is asked for (default: its own); an animation is a still image in most of them.
    """
    if is_video(path):
        return Video(path)
    animation = open_animation(path) if format is None or format in ANIMATED else None
    return animation or Still(path)
