"""What the evaluations in a run folder hold, checked when they are read."""

from pydantic import FiniteFloat
from typing_extensions import TypedDict


class Metrics(TypedDict):
    """A row of evaluation.json: the fields of `distill.evaluation.counterfactuals.EditMetrics`."""

    edit: str
    method: str
    scenes: str
    num_scenes: int
    psnr_all: FiniteFloat | None
    psnr_inside: FiniteFloat | None
    psnr_outside: FiniteFloat | None
    ssim_all: FiniteFloat | None
    ssim_inside: FiniteFloat | None
    ssim_outside: FiniteFloat | None
    sharpness_inside: FiniteFloat | None
    psnr_outside_to_input: FiniteFloat | None
    right: FiniteFloat | None


class Evaluation(TypedDict):
    """The content of evaluation.json."""

    split: str
    num_scenes: int
    given: dict[str, str]
    edits: list[Metrics]
    means: list[Metrics]
    """Over the edits."""
