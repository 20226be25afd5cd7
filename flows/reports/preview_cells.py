"""What a preview found, as its judge and its page read it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from distill.diagnostics import ChangeMetrics, Diagnostic


@dataclass(frozen=True)
class Cell:
    """One edit at one setting: its images, and what speaks against it."""

    edit: str
    guidance_scale: float
    iterations: int
    images: "list[Image.Image]"
    metrics: "ChangeMetrics"
    diagnostics: "list[Diagnostic]"
