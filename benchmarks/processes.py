"""What the benchmarks share: one line for wrong input, a process for each measurement, and a painter of noise."""

import functools
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from synth.errors import FileError, one_line_errors

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))  # of the painter, which belongs to the tests

from noise_painter import NoisePainter

__all__ = ["Died", "NoisePainter", "in_own_process", "one_line"]


class Died(Exception):
    """A process ended without a result; the message says why, as far as it is known."""


def in_own_process(work: Callable[[], Any], seconds: float | None = None) -> Any:
    """Call a function in a new process, so that its peak memory is its own and its death ends nothing else.

    Args:
        work: can be pickled, and so can what it returns.
        seconds: after which the process is killed; None for no limit.

    Raises:
        Died: if the function raises, whose traceback is printed, or its process dies.
        TimeoutError: after `seconds`.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, work))
    process.start()
    sender.close()  # the process has its own: its death is then the end of the pipe
    try:
        if not receiver.poll(seconds):
            process.kill()
            raise TimeoutError
        is_done, value = receiver.recv()
    except EOFError:
        process.join()
        raise Died(_how_it_died(process.exitcode or 0)) from None
    finally:
        process.join()
        receiver.close()
    if not is_done:
        raise Died(value)
    return value


def _answer(sender: Connection, work: Callable[[], Any]) -> None:
    try:
        sender.send((True, work()))
    except Exception as error:
        traceback.print_exc()
        sender.send((False, f"{type(error).__name__}: {' '.join(str(error).split())}"))


def _how_it_died(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"


def one_line(main: Callable[[], None]) -> Callable[[], None]:
    """Let a benchmark end on a wrong run folder, model file or teacher with one line and exit code 2."""

    @functools.wraps(main)
    def run() -> None:
        try:
            main()
        except ValueError as error:
            # The runtime's errors have a root of their own, and not every benchmark needs ONNX Runtime.
            root = getattr(sys.modules.get("inference.runtime"), "TranslatorError", ())
            raise (FileError(str(error)) if isinstance(error, root) else error) from error

    return one_line_errors(run)
