"""Processes that work for a flow: they end when it does, and tell it their first error.

A child's standard input stays open as long as the flow lives. It ends when that closes, so that no child outlives a
flow that was killed, which can send no signal.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.orchestration.environment import prepare_worker
from flows.orchestration.logs import WARNING
from flows.orchestration.retries import is_transient
from synth.errors import DistilleryError

_ERROR = "error: "
_TRANSIENT_ERROR = "transient error: "
_TAIL_BYTES, _TAIL_LINES = 16_384, 40  # of a crash: a traceback with the lines before it
_SECONDS_TO_END = 30.0  # after standard input is closed; a child ends at once, torchrun takes a little longer


@dataclass(frozen=True)
class ReportedError:
    """What a child reported, in one line."""

    message: str
    is_transient: bool

    @property
    def cause(self) -> ConnectionError | None:
        """What stands in for a cause that stayed in the child: with it as its cause, an error is retried."""
        return ConnectionError(self.message) if self.is_transient else None


@contextmanager
def started(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a child whose output goes into `log`, and end it with the block: also if the flow is cancelled.

    Args:
        command: a program whose processes call `work_for_the_flow`.
        log: written anew.
        environment: of the child (default: this process's).
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
        assert process.stdin is not None
        try:
            yield process
        finally:
            process.stdin.close()
            try:
                process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Output:
    """What a child writes into its log, read while it grows."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._num_read = 0

    def new_warnings(self) -> list[str]:
        """Return the warnings of the project's loggers that were written since the last call."""
        with self.log.open("rb") as file:
            file.seek(self._num_read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]  # a line without its end is still being written
        self._num_read += len(whole)
        lines = whole.decode(errors="replace").splitlines()
        return [line.removeprefix(WARNING) for line in lines if line.startswith(WARNING)]

    def last_lines(self) -> list[str]:
        """Return the end of the log, without empty lines at its end."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
        return text.rstrip().splitlines()[-_TAIL_LINES:]


def first_error(logs: Iterable[Path]) -> ReportedError | None:
    """Find the first error that a child reported in its log; None if none did, as after a kill."""
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            for prefix in (_ERROR, _TRANSIENT_ERROR):
                if line.startswith(prefix):
                    return ReportedError(line.removeprefix(prefix), prefix == _TRANSIENT_ERROR)
    return None


def work_for_the_flow(work: Callable[[], object]) -> None:
    """Do a child's work: report an error in one line, with exit code 2, and end when the flow does."""
    threading.Thread(target=_exit_with_the_flow, daemon=True).start()
    prepare_worker()
    try:
        work()
    except Exception as error:
        transient = is_transient(error)
        if not transient and not isinstance(error, DistilleryError):
            raise
        prefix = _TRANSIENT_ERROR if transient else _ERROR
        print(f"\n{prefix}{' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(2)


def _exit_with_the_flow() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock, held by this thread, would disturb an ordinary exit
        pass
    os._exit(1)
