"""What the evaluations in a run folder hold, checked when they are read."""

from typing import NotRequired

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


class FileFacts(TypedDict):
    """What a model file costs."""

    method: str
    """The name of its rows of metrics."""
    file: str
    mebibytes: FiniteFloat
    """With the weights beside it, if there are any."""
    milliseconds: FiniteFloat
    """An image of the training size, on one thread of the CPU that measured it."""


class Evaluation(TypedDict):
    """The content of evaluation.json."""

    split: str
    num_scenes: int
    given: dict[str, str]
    edits: list[Metrics]
    means: list[Metrics]
    """Over the edits."""
    files: NotRequired[list[FileFacts]]
    """Older evaluations have none."""
