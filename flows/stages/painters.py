"""Paint shards in several processes at once, one on each card.

Each process runs `python -m flows.stages.painters SHARE.json` and takes every so many-th shard. A shard's content
follows from the recipe and its number, so the dataset is the one that a single process would paint.
"""

import logging
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from flows.config.schema import Recipe
from flows.config.trust import check_trust
from flows.orchestration.children import Output, first_error, started, work_for_the_flow
from flows.orchestration.progress import Bar
from flows.shared_teacher import open_teacher
from synth.errors import DatasetError
from synth.files import write_text
from synth.state import read_json

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


class _Share(BaseModel):
    """What one process paints. It is handed over as a file: a command line is too short for many numbers."""

    recipe: Recipe
    url: str
    rank: int
    numbers: list[int]
    images: Path
    """A file that gets a byte for each image."""
    steps: Path
    """A file that gets a byte when the teacher is loaded, and one for each shard."""


class _Painter:
    """One of the processes, as the flow sees it."""

    def __init__(self, share: _Share, folder: Path, until_the_end: ExitStack) -> None:
        for file in (share.images, share.steps):
            file.touch()
        described, log = folder / f"{share.rank}.json", folder / f"{share.rank}.log"
        write_text(described, share.model_dump_json())
        command: list[str | Path] = [sys.executable, "-m", "flows.stages.painters", described]
        self.code: int | None = None
        """The exit code as of the last `poll`; None while it runs."""
        self.output = Output(log)
        self._process = until_the_end.enter_context(started(command, log))
        self._share = share
        self._num_steps = 0
        self._last_step = time.monotonic()

    @property
    def number(self) -> int:
        """The process's number for people, from 1 on."""
        return self._share.rank + 1

    @property
    def has_failed(self) -> bool:
        """Whether the process had ended with an error at the last `poll`."""
        return self.code not in (None, 0)

    def poll(self) -> None:
        """Look whether the process has ended."""
        self.code = self._process.poll()

    def num_images(self) -> int:
        """Return how many images have passed."""
        return self._share.images.stat().st_size

    def seconds_on_a_shard(self) -> float:
        """Return for how long the process has been at its shard, as far as the calls of this method have seen."""
        if (num_steps := self._share.steps.stat().st_size) != self._num_steps:
            self._num_steps, self._last_step = num_steps, time.monotonic()
        return time.monotonic() - self._last_step


def paint_together(recipe: Recipe, url: str, numbers: Sequence[int], num_processes: int, bar: Bar) -> None:
    """Paint shards in several processes. What they warn of is logged here, once.

    Args:
        recipe: resolved.
        url: the dataset's folder or URL.
        numbers: of the shards.
        num_processes: at most as many as there are shards. On a machine with GPUs, each takes one.
        bar: advances with each image that passes.

    Raises:
        DatasetError: with the first error that a process reports, with what is known of one that crashed, or if one
            takes longer than `operations.timeout_hours` for a shard; complete shards are kept.
    """
    with tempfile.TemporaryDirectory(prefix="distillery-paint-") as name, ExitStack() as until_the_end:
        folder, painters = Path(name), []
        for rank in range(num_processes):
            files = {"images": folder / f"{rank}.images", "steps": folder / f"{rank}.steps"}
            share = _Share(recipe=recipe, url=url, rank=rank, numbers=list(numbers[rank::num_processes]), **files)
            painters.append(_Painter(share, folder, until_the_end))
        num_before = bar.n
        warned: set[str] = set()
        while True:
            for painter in painters:
                painter.poll()  # before what it wrote until then is read
            bar.advance_to(num_before + sum(painter.num_images() for painter in painters))
            _pass_on_warnings(painters, warned)
            if all(painter.code == 0 for painter in painters):
                return
            if any(painter.has_failed for painter in painters):
                break
            _refuse_late(painters, recipe.operations.timeout_hours)
            time.sleep(_POLL_SECONDS)
        until_the_end.close()  # the others end, and keep the code that they had
        raise _failure(painters)


def _pass_on_warnings(painters: Sequence[_Painter], warned: set[str]) -> None:
    """Log what processes warn of: each warning once, for they have the same recipe, and often the same cards."""
    for painter in painters:
        for warning in painter.output.new_warnings():
            if warning not in warned:
                warned.add(warning)
                logger.warning(warning)


def _refuse_late(painters: Sequence[_Painter], max_hours: float) -> None:
    for painter in painters:
        if painter.code is None and painter.seconds_on_a_shard() > max_hours * 3600:
            raise DatasetError(
                f"process {painter.number} of the {len(painters)} that paint was at one shard for longer than "
                f"operations.timeout_hours={max_hours:g}, and was stopped: complete shards are kept; look at its "
                "card, or allow more hours"
            )


def _failure(painters: Sequence[_Painter]) -> DatasetError:
    """The error of the processes that failed by themselves. The others were ended, and have nothing to say."""
    failed = [painter for painter in painters if painter.has_failed]
    if (reported := first_error(painter.output.log for painter in failed)) is not None:
        error = DatasetError(reported.message)
        error.__cause__ = reported.cause
        return error
    first, code = failed[0], failed[0].code or 0
    ended = f"exit code {code}" if code > 0 else f"signal {-code} ({signal.strsignal(-code) or 'unknown'})"
    last = first.output.last_lines()
    if last:
        logger.error("\n".join([f"the output of process {first.number} of {len(painters)} ends with:", *last]))
    line = f"; its last line is {last[-1].strip()!r}" if last else ""
    return DatasetError(
        f"process {first.number} of the {len(painters)} that paint ended with {ended}{line}; complete shards are "
        "kept, and the same command paints what is missing"
    )


class _Count:
    """A progress bar whose reader is another process: a byte for each image."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def update(self, n: int = 1) -> None:
        self._file.write(b"." * n)

    def set_postfix(self, **values: Any) -> None:
        """Show nothing: the bar of the flow counts for all."""


def main() -> None:
    """Paint as one of the processes."""
    work_for_the_flow(_paint)


def _paint() -> None:
    import torch

    from synth.dataset.building import DatasetBuilder

    share: _Share = read_json(Path(sys.argv[1]), _Share, DatasetError, "repeat the command")
    check_trust(share.recipe)  # the flow passes its own consent on in the environment
    if share.recipe.teacher.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(share.rank)  # `check_cards` has found one for each
    builder = DatasetBuilder(open_teacher(share.recipe.teacher), share.recipe.to_paint(), share.url)
    with share.images.open("ab", buffering=0) as images, share.steps.open("ab", buffering=0) as steps:
        bar: Any = _Count(images)
        steps.write(b".")
        for number in share.numbers:
            builder.paint_shard(number, bar)
            steps.write(b".")


if __name__ == "__main__":
    main()
