"""What the benchmarks share: one line for wrong input, and a painter of noise, which belongs to the tests."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

from inference.runtime import TranslatorError
from synth.errors import FileError, one_line_errors

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))  # a script finds only its own folder

from noise_painter import NoisePainter

__all__ = ["NoisePainter", "one_line"]


def one_line(main: Callable[[], None]) -> Callable[[], None]:
    """Let a benchmark end on a wrong run folder, model file or teacher with one line and exit code 2."""

    @functools.wraps(main)
    def run() -> None:
        try:
            main()
        except TranslatorError as error:  # the runtime's errors have a root of their own
            raise FileError(str(error)) from error

    return one_line_errors(run)
