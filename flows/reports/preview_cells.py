"""What a preview found: the judge and the page read it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from distill.evaluation.diagnostics import ChangeMetrics, Diagnostic


@dataclass(frozen=True)
class Cell:
    """One edit at one setting: its images, its metrics and the diagnostics against it."""

    edit: str
    guidance_scale: float
    iterations: int
    images: "list[Image.Image]"
    metrics: "ChangeMetrics"
    diagnostics: "list[Diagnostic]"
