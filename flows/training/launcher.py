"""Train in several processes, which `accelerate launch` starts and the flow watches.

Each process runs `python -m flows.training.launcher RUN_FOLDER`. It ends when its standard input closes, so that no
process outlives the flow.
"""

import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import FiniteFloat

from flows.config.operations import OperationSettings
from flows.config.schema import Recipe
from flows.config.trust import check_trust
from flows.orchestration.environment import prepare_worker, without_accelerate
from flows.orchestration.progress import Bar, open_progress
from flows.orchestration.retries import is_transient
from flows.run.folder import RunFolder
from synth.errors import DistilleryError, TrainingError
from synth.files import write_text
from synth.state import parse_json, reading
from synth.words import ascii_slug

logger = logging.getLogger(__name__)

_ERROR = "error: "
_TRANSIENT_ERROR = "transient error: "
_POLL_SECONDS = 1.0
_TAIL_BYTES = 4096  # holds several lines
_SECONDS_TO_END = 30.0  # after standard input is closed; the processes end at once, torchrun takes a little longer


def distill_together(recipe: Recipe, run: RunFolder) -> None:
    """Train the run's student in the processes that the recipe's operations ask for.

    Args:
        recipe: as the run folder has it, from which the processes read it.
        run: the run folder.

    Raises:
        TrainingError: with the first error that the processes report, or if `metrics.jsonl` is damaged.
    """
    log = run.path / f"processes-{ascii_slug(platform.node())}.log"  # other machines may share the folder
    logger.info(f"training in several processes; their output is in {log}")
    artifact = open_progress("steps", recipe.name)
    with (
        _launched(recipe, run, log) as process,
        Bar("distilling", recipe.training.steps, "step", 0, artifact, False) as bar,
    ):
        while process.poll() is None:
            bar.update(_last_step(run.metrics) - bar.n)
            time.sleep(_POLL_SECONDS)
        bar.update(_last_step(run.metrics) - bar.n)
    if process.returncode != 0:
        message, transient = _first_error(log)
        # The cause stayed in the other process. A ConnectionError stands in for it, so that the task is retried.
        raise TrainingError(message) from (ConnectionError(message) if transient else None)


@contextmanager
def _launched(recipe: Recipe, run: RunFolder, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output, tempfile.TemporaryDirectory(prefix="distillery-launch-") as folder:
        options = launch_options(recipe.operations, Path(folder))
        script = ["--module", "flows.training.launcher", str(run.path)]
        process = subprocess.Popen(
            [sys.executable, "-m", "accelerate.commands.launch", *options, *script],
            env=without_accelerate(os.environ),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        assert process.stdin is not None
        try:
            yield process
        finally:  # also if the flow is cancelled or times out
            process.stdin.close()
            try:
                process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def launch_options(operations: OperationSettings, folder: Path) -> list[str]:
    """Return the options of `accelerate launch`: those of the recipe's file, or of so many processes on this machine.

    Without a file, accelerate would read the user's own defaults for other work, from `accelerate config`.

    Args:
        operations: of the recipe.
        folder: a file for accelerate is written there.
    """
    if operations.accelerate_config is not None:
        return ["--config_file", operations.accelerate_config]
    config = folder / "accelerate.json"
    values = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "use_cpu": False}
    values |= {"mixed_precision": "no", "num_machines": 1, "machine_rank": 0, "debug": False}
    write_text(config, json.dumps({**values, "num_processes": operations.processes}))
    # accelerate calls torchrun --multi_gpu, with or without GPUs; port 0 stands for any free port.
    options = ["--multi_gpu", "--num_processes", str(operations.processes), "--main_process_port", "0"]
    return ["--config_file", str(config), *options]


def _last_step(metrics: Path) -> int:
    """The step of the last complete line of `metrics.jsonl`, 0 before the first. Only the file's end is read.

    Raises:
        TrainingError: if that line is damaged.
    """
    if not metrics.exists():
        return 0
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - _TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]  # a line without its end is still being written
    if not lines:
        return 0
    with reading(metrics, TrainingError, "delete it: the training does not need it"):
        row: dict[str, float] = parse_json(lines[-1], dict[str, FiniteFloat])
        return int(row["step"])


def _first_error(log: Path) -> tuple[str, bool]:
    """The first error that a process reported, or a pointer to the log; and whether it is transient."""
    for line in log.read_text(errors="replace").splitlines():
        for prefix in (_ERROR, _TRANSIENT_ERROR):
            if line.startswith(prefix):
                return line.removeprefix(prefix), prefix == _TRANSIENT_ERROR
    return (
        f"the training's processes ended without reporting an error, as after a kill: see {log}, and run the same "
        "command again to resume from the last checkpoint"
    ), False


def main() -> None:
    """Train as one of the processes."""
    threading.Thread(target=_exit_with_the_flow, daemon=True).start()
    prepare_worker()
    from flows.training.student import train_student

    run = RunFolder(Path(sys.argv[1]))
    try:
        recipe = run.load_recipe()
        check_trust(recipe)  # the flow passes its own consent on in the environment
        train_student(recipe, run)
    except Exception as error:
        transient = is_transient(error)
        if not transient and not isinstance(error, DistilleryError):
            raise
        prefix = _TRANSIENT_ERROR if transient else _ERROR
        print(f"\n{prefix}{' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(2)


def _exit_with_the_flow() -> None:
    """Exit when standard input closes: the flow holds its other end, and a killed flow cannot send a signal."""
    while os.read(0, 1):  # not sys.stdin, whose lock, held by this thread, would disturb an ordinary exit
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
