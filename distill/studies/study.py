"""The interface of a study, and the measurements that several of them share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.evaluation.counterfactuals import Reader, measure_edits
from distill.evaluation.examples import Example
from distill.optimization import Progress
from distill.settings import EditSettings
from distill.zero_shot import edit
from synth.teacher.teacher import Teacher

Row = dict[str, Any]
"""Numbers, text, lists of numbers; an image as PNG bytes under a name that ends in `png`."""
Unit = dict[str, Any]
"""JSON values."""


class Study(ABC):
    """One question about the method, answered by measurements."""

    name: str
    """The study's name on the command line."""
    question: str

    @abstractmethod
    def units(self) -> list[Unit]:
        """List the pieces of the work, in order; each takes minutes with the miniature.

        A finished piece is recognized by its unit, which therefore holds every setting that may change.
        """

    @abstractmethod
    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        """Do one piece. The same teacher and unit give the same rows."""

    @abstractmethod
    def plot(self, rows: Sequence[Row]) -> Image.Image:
        """Draw the rows, and nothing else."""

    @abstractmethod
    def finding(self, rows: Sequence[Row]) -> str:
        """Say what the rows show, whichever way it falls."""


def trajectory(
    teacher: Teacher, examples: Sequence[Example], settings: EditSettings, at: Iterable[int]
) -> dict[int, list[NDArray[np.uint8]]]:
    """Record the edited images at some iterations of one optimization.

    Args:
        teacher: the frozen model.
        examples: edited together; their images are of one size.
        settings: of the edits.
        at: iterations to record.

    Returns:
        Iteration -> uint8 (H, W, 3) for each example.
    """
    wanted = set(at)
    recorded: dict[int, list[NDArray[np.uint8]]] = {}

    def record(progress: Progress) -> None:
        if progress.iteration in wanted:
            recorded[progress.iteration] = [np.asarray(image) for image in progress.images()]

    edit_examples(teacher, examples, settings, record)
    return recorded


def edit_examples(
    teacher: Teacher, examples: Sequence[Example], settings: EditSettings, callback: Callable[[Progress], None]
) -> None:
    """Edit the images of examples, which are of one size, together; the callback gets each iteration."""
    edit(
        teacher,
        [example.pil_image for example in examples],
        [example.prompt for example in examples],
        [example.source_prompt for example in examples],
        settings,
        callback,
    )


def measure_example(image: NDArray[np.uint8], example: Example, reader: Reader) -> dict[str, float]:
    """Measure one edited image against its truth (`distill.evaluation.counterfactuals.measure_edits`)."""
    assert example.truth is not None and example.mask is not None, "photographs have no true answer"
    return next(
        measure_edits(image[None], example.image[None], example.truth[None], [example.mask], example.factors, reader)
    )
