"""Paint shards in several processes at once, one on each card.

Each process runs `python -m flows.stages.painters` and takes every so many-th shard. A shard's content follows from
the recipe and its number, so the dataset is the one that a single process would paint.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from flows.config.schema import Recipe
from flows.config.trust import check_trust
from flows.orchestration.children import first_error, started, work_for_the_flow
from flows.orchestration.progress import Bar
from flows.shared_teacher import open_teacher
from synth.errors import DatasetError
from synth.files import write_text

_POLL_SECONDS = 0.5


def paint_together(recipe: Recipe, url: str, numbers: Sequence[int], num_processes: int, bar: Bar) -> None:
    """Paint shards in several processes.

    Args:
        recipe: resolved.
        url: the dataset's folder or URL.
        numbers: of the shards.
        num_processes: at most as many as there are shards. On a machine with GPUs, each takes one.
        bar: advances with each image that passes.

    Raises:
        DatasetError: with the first error that a process reports; complete shards are kept.
    """
    with tempfile.TemporaryDirectory(prefix="distillery-paint-") as name, ExitStack() as until_the_end:
        folder = Path(name)
        write_text(folder / "recipe.json", recipe.model_dump_json())
        counts = [folder / f"{rank}.count" for rank in range(num_processes)]
        logs = [folder / f"{rank}.log" for rank in range(num_processes)]
        running = []
        for rank, (count, log) in enumerate(zip(counts, logs, strict=True)):
            share = map(str, numbers[rank::num_processes])
            count.touch()
            command: list[str | Path] = [sys.executable, "-m", "flows.stages.painters", folder / "recipe.json", url]
            command += [count, str(rank), *share]
            running.append(until_the_end.enter_context(started(command, log)))
        num_before = bar.n
        while all(process.poll() in (None, 0) for process in running):
            is_over = all(process.poll() == 0 for process in running)
            bar.advance_to(num_before + sum(count.stat().st_size for count in counts))
            if is_over:
                return
            time.sleep(_POLL_SECONDS)
        until_the_end.close()  # the others end, and their logs are whole
        if (error := first_error(logs)) is not None:
            raise DatasetError(error.message) from error.cause
        raise DatasetError(_unexplained(logs))


def _unexplained(logs: Sequence[Path]) -> str:
    """What to say of processes that reported nothing, as after a kill: the last line of the first that has one."""
    lasts = (log.read_text(errors="replace").strip().rpartition("\n")[2] for log in logs)
    last = next((f"; the last line of one is: {line.strip()}" for line in lasts if line), "")
    return (
        "the processes that paint ended without reporting an error, as after a kill: repeat the command, which "
        f"paints what is missing{last}"
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

    file, url, count, rank, *numbers = sys.argv[1:]
    recipe = Recipe.model_validate_json(Path(file).read_text())
    check_trust(recipe)  # the flow passes its own consent on in the environment
    if torch.cuda.is_available():
        torch.cuda.set_device(int(rank) % torch.cuda.device_count())
    builder = DatasetBuilder(open_teacher(recipe.teacher), recipe.to_paint(), url)
    with Path(count).open("ab", buffering=0) as counted:
        bar: Any = _Count(counted)
        for number in numbers:
            builder.paint_shard(int(number), bar)


if __name__ == "__main__":
    main()
