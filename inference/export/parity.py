"""The parity check that every model file passes before it is written: its outputs against PyTorch's in float32."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from inference.settings import Precision
from synth.errors import ExportError, first_line
from synth.psnr import psnr_from_mse

MAX_DIFFERENCE = {"float32": 1e-3, "float16": 8 / 255}  # of any pixel, in [-1, 1]
MAX_QUANTILE = {"float16": 2 / 255}  # of all pixels but one in a thousand: a level of 255
MIN_PSNR_DB = {"float16": 50.0, "int8": 35.0}  # of each case
QUANTILE = 0.999
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
    quantile: float
    """What 99.9 % of the pixels differ by at most."""
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
    def quantile(self) -> float:
        """What 99.9 % of the pixels of each case differ by at most."""
        return max(case.quantile for case in self.cases)

    @property
    def min_psnr_db(self) -> float:
        """The lowest PSNR of all cases."""
        return min(case.psnr_db for case in self.cases)


class ParityError(ExportError):
    """A file's output differs from PyTorch's."""


@dataclass(frozen=True)
class Example:
    """Inputs of a file, and PyTorch's answer to them."""

    feeds: dict[str, npt.NDArray[np.generic]]
    """image (N, 3, H, W), edit (N,), strength (N,)."""
    expected: npt.NDArray[np.float32]
    """(N, 3, H, W), in float32."""

    @property
    def where(self) -> str:
        """Size and batch, for messages."""
        batch, _, height, width = self.expected.shape
        return f"at {height}x{width}, batch {batch}"


def examples(
    module: nn.Module, images: npt.NDArray[np.uint8], num_edits: int, training_size: int, size_multiple: int
) -> Iterator[Example]:
    """What all files of one network are compared with, at four sizes, over edits, strengths and images in turn.

    Args:
        module: the reference, in float32, on whatever device.
        images: uint8 (N, H, W, 3), resized to each size.
        num_edits: how many edits the student knows.
        training_size: side of the images that the student was trained on, in pixels.
        size_multiple: what heights and widths must be multiples of.
    """
    device = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    pixels = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1.0  # (N, 3, H, W) in [-1, 1]
    start = 0
    for batch, height, width in sizes(training_size, size_multiple):
        # Edits, strengths and images take turns over the samples of all cases.
        turns = torch.arange(start, start + batch)
        start += batch
        small = nn.functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
        feeds = {
            "image": small[turns % len(small)].clamp(-1.0, 1.0),  # (batch, 3, height, width)
            "edit": turns % num_edits,
            "strength": torch.tensor([1.0, 0.5, 1.5])[turns % 3],
        }
        # A GPU's convolutions would round to ten bits.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            expected = module(**{name: value.to(device) for name, value in feeds.items()}).cpu().numpy()
        yield Example({name: value.numpy() for name, value in feeds.items()}, expected)


def check(wanted: Sequence[Example], run: Run, name: str, precision: Precision) -> ParityReport:
    """Compare a file with PyTorch.

    Args:
        wanted: see `examples`.
        run: the opened file.
        name: what messages call the file.
        precision: of the file; it decides the bounds.

    Raises:
        ParityError: if the two differ by more than the precision's bounds, the file fails, or it changes the image
            at strength 0.
    """
    cases = []
    for example in wanted:
        case = _compare(example, run, name)
        _judge(case, name, precision, example.where)
        cases.append(case)
        _check_identity(example, run, name)
    return ParityReport(tuple(cases))


def sizes(training_size: int, size_multiple: int) -> list[tuple[int, int, int]]:
    """(batch, height, width) of each case: square as trained, then odd multiples, wide and tall."""

    def odd(fraction: float) -> int:
        return size_multiple * (2 * round((training_size * fraction / size_multiple - 1) / 2) + 1)

    square = size_multiple * max(1, round(training_size / size_multiple))
    return [(1, square, square), (3, odd(0.56), odd(0.81)), (2, odd(1.06), square), (1, square, odd(0.56))]


def _compare(example: Example, run: Run, name: str) -> ParityCase:
    expected = example.expected
    actual = _answer(example, example.feeds, run, name)
    difference = np.abs(actual.astype(np.float64) - expected)
    mean_square = float(np.square(difference).mean())
    psnr_db = psnr_from_mse(mean_square, peak=2.0) if mean_square else _IDENTICAL_DB
    batch, _, height, width = expected.shape
    quantile = float(np.quantile(difference, QUANTILE))
    return ParityCase(batch, height, width, float(difference.max()), quantile, min(psnr_db, _IDENTICAL_DB))


def _check_identity(example: Example, run: Run, name: str) -> None:
    """Raise ParityError if a file changes an image at strength 0."""
    untouched = _answer(example, example.feeds | {"strength": np.zeros(len(example.expected), np.float32)}, run, name)
    if not np.array_equal(untouched, example.feeds["image"]):
        raise ParityError(f"{name} changes the image at strength 0 {example.where}: it was not written")


def _answer(
    example: Example, feeds: dict[str, npt.NDArray[np.generic]], run: Run, name: str
) -> npt.NDArray[np.float32]:
    """A file's answer; ParityError if it has none, or one of another shape than PyTorch's."""
    try:
        actual = run(feeds)
    except Exception as error:  # neither onnxruntime's exceptions nor torch's share a base class of their own
        raise ParityError(f"{name} fails {example.where}, it was not written: {first_line(error)}") from error
    if actual.shape != example.expected.shape:
        raise ParityError(
            f"{name} gives {actual.shape} for PyTorch's {example.expected.shape} {example.where}: it was not written"
        )
    return actual


def _judge(case: ParityCase, name: str, precision: Precision, where: str) -> None:
    """Raise ParityError if a case is beyond a bound of its precision; `not <=`, so that a NaN is beyond it, too."""
    for bounds, value, pixels in (
        (MAX_DIFFERENCE, case.max_difference, ""),
        (MAX_QUANTILE, case.quantile, f"in more than {1 - QUANTILE:.1%} of the pixels "),
    ):
        if precision in bounds and not value <= bounds[precision]:
            raise ParityError(
                f"{name} differs from PyTorch by {value:.2g} {pixels}{where}, more than {bounds[precision]:.2g}: "
                f"it was not written; {_ADVICE[precision]}"
            )
    if precision in MIN_PSNR_DB and not case.psnr_db >= MIN_PSNR_DB[precision]:
        raise ParityError(
            f"{name} comes within {case.psnr_db:.1f} dB of float32 {where}, less than "
            f"{MIN_PSNR_DB[precision]:g} dB: it was not written; {_ADVICE[precision]}"
        )
