"""The parity check that every model file passes before it is written: its outputs against PyTorch's in float32."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inference.settings import Precision
from synth.errors import ExportError, first_line
from synth.psnr import psnr_from_mse

MAX_DIFFERENCE = {"float32": 1e-3, "float16": 2 / 255}  # of any pixel, in [-1, 1]
MIN_PSNR_DB = {"int8": 35.0}  # of each case
_IDENTICAL_DB = 200.0  # in place of infinity, which JSON does not have
_ADVICE = {
    "float32": "the student does something that the trace loses",
    "float16": "float16 is too coarse for this student: take float32",
    "int8": "eight bits are too few for this student: leave int8 out",
}

Run = Callable[[dict[str, npt.NDArray[np.generic]]], npt.NDArray[np.float32]]
"""An opened file: image, edit and strength by name -> translated."""


@dataclass(frozen=True)
class ParityCase:
    """One comparison of a file with PyTorch."""

    batch: int
    height: int
    width: int
    max_difference: float
    """In [-1, 1] pixels."""
    psnr_db: float
    """Of the file's output to PyTorch's."""


@dataclass(frozen=True)
class ParityReport:
    """All the comparisons that a file passed."""

    cases: tuple[ParityCase, ...]

    @property
    def max_difference(self) -> float:
        """The largest difference of all cases, in [-1, 1] pixels."""
        return max(case.max_difference for case in self.cases)

    @property
    def min_psnr_db(self) -> float:
        """The lowest PSNR of all cases."""
        return min(case.psnr_db for case in self.cases)


class ParityError(ExportError):
    """A file's output differs from PyTorch's."""


def check(
    module: nn.Module,
    run: Run,
    name: str,
    precision: Precision,
    images: npt.NDArray[np.uint8],
    num_edits: int,
    training_size: int,
    size_multiple: int,
) -> ParityReport:
    """Compare a file with `module`, at four sizes, over edits, strengths and images in turn.

    Args:
        module: the reference, in float32.
        run: the opened file.
        name: what messages call the file.
        precision: of the file; it decides the bound.
        images: uint8 (N, H, W, 3), resized to each size.
        num_edits: how many edits the student knows.
        training_size: side of the images that the student was trained on, in pixels.
        size_multiple: what heights and widths must be multiples of.

    Raises:
        ParityError: if the two differ by more than the precision's bound, the file fails, or it changes the image at
            strength 0.
    """
    pixels = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1.0  # (N, 3, H, W) in [-1, 1]
    cases = []
    start = 0
    for batch, height, width in sizes(training_size, size_multiple):
        # Edits, strengths and images take turns over the samples of all cases.
        turns = torch.arange(start, start + batch)
        start += batch
        small = nn.functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
        image = small[turns % len(small)].clamp(-1.0, 1.0)  # (batch, 3, height, width)
        edit = turns % num_edits
        strength = torch.tensor([1.0, 0.5, 1.5])[turns % 3]
        where = f"at {height}x{width}, batch {batch}"
        case = _compare(module, run, name, image, edit, strength, where)
        _judge(case, name, precision, where)
        cases.append(case)
    return ParityReport(tuple(cases))


def sizes(training_size: int, size_multiple: int) -> list[tuple[int, int, int]]:
    """(batch, height, width) of each case: square as trained, then odd multiples, wide and tall."""

    def odd(fraction: float) -> int:
        return size_multiple * (2 * round((training_size * fraction / size_multiple - 1) / 2) + 1)

    square = size_multiple * max(1, round(training_size / size_multiple))
    return [(1, square, square), (3, odd(0.56), odd(0.81)), (2, odd(1.06), square), (1, square, odd(0.56))]


def _compare(
    module: nn.Module, run: Run, name: str, image: Tensor, edit: Tensor, strength: Tensor, where: str
) -> ParityCase:
    with torch.no_grad():
        expected = module(image, edit, strength).numpy()  # (N, 3, H, W)
    feeds = {"image": image.numpy(), "edit": edit.numpy(), "strength": strength.numpy()}
    try:
        actual = run(feeds)
        untouched = run(feeds | {"strength": np.zeros(len(image), np.float32)})
    except Exception as error:  # neither onnxruntime's exceptions nor torch's share a base class of their own
        raise ParityError(f"{name} fails {where}, it was not written: {first_line(error)}") from error
    if actual.shape != expected.shape:
        raise ParityError(f"{name} gives {actual.shape} for PyTorch's {expected.shape} {where}: it was not written")
    if not np.array_equal(untouched, feeds["image"]):
        raise ParityError(f"{name} changes the image at strength 0 {where}: it was not written")
    difference = actual.astype(np.float64) - expected
    mean_square = float(np.square(difference).mean())
    psnr_db = psnr_from_mse(mean_square, peak=2.0) if mean_square else _IDENTICAL_DB
    batch, _, height, width = image.shape
    return ParityCase(batch, height, width, float(np.abs(difference).max()), min(psnr_db, _IDENTICAL_DB))


def _judge(case: ParityCase, name: str, precision: Precision, where: str) -> None:
    """Raise ParityError if a case is beyond its precision's bound; `not <=`, so that a NaN is beyond it, too."""
    if precision in MAX_DIFFERENCE and not case.max_difference <= MAX_DIFFERENCE[precision]:
        raise ParityError(
            f"{name} differs from PyTorch by {case.max_difference:.2g} {where}, more than "
            f"{MAX_DIFFERENCE[precision]:.2g}: it was not written; {_ADVICE[precision]}"
        )
    if precision in MIN_PSNR_DB and not case.psnr_db >= MIN_PSNR_DB[precision]:
        raise ParityError(
            f"{name} comes within {case.psnr_db:.1f} dB of float32 {where}, less than "
            f"{MIN_PSNR_DB[precision]:g} dB: it was not written; {_ADVICE[precision]}"
        )
