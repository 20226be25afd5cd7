"""A training in several processes: started by `accelerate launch`, watched by the flow, and gone when the flow is.

python -m flows.training.launcher RUN_FOLDER      is what each of them runs; standard input is its lifeline
"""

import json
import logging
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.config.naming import slug
from flows.config.schema import Recipe
from flows.config.trust import check_trust
from flows.orchestration.environment import prepare_worker
from flows.orchestration.progress import Bar, open_progress
from flows.orchestration.retries import is_transient
from flows.run.folder import RunFolder
from synth.errors import DistilleryError, TrainingError

logger = logging.getLogger(__name__)

_ERROR, _TRANSIENT = "error: ", "transient error: "
_SECONDS_BETWEEN_LOOKS = 1.0
_END_BYTES = 4096  # holds several lines
_SECONDS_TO_END = 30.0  # after the lifeline is cut; the processes end at once, and torchrun sees to itself


def distill_together(recipe: Recipe, run: RunFolder) -> None:
    """Train the run's student in as many processes as the recipe's operations say; the run folder has its recipe.

    Raises:
        TrainingError: with what the processes said last, if they fail.
    """
    log = run.path / f"processes-{slug(platform.node())}.log"  # other machines may share the folder
    logger.info(f"training in several processes; their output is in {log}")
    artifact = open_progress("steps", recipe.name)
    with _launched(recipe, run, log) as process, Bar("distilling", recipe.training.steps, "step", 0, artifact) as bar:
        while process.poll() is None:
            bar.update(_last_step(run.metrics) - bar.n)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        bar.update(_last_step(run.metrics) - bar.n)
    if process.returncode != 0:
        message, transient = _first_error(log)
        # The cause stayed in the other process. Ours stands for it, so that the task is retried where it would be.
        raise TrainingError(message) from (ConnectionError(message) if transient else None)


@contextmanager
def _launched(recipe: Recipe, run: RunFolder, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    operations = recipe.operations
    if operations.accelerate_config is not None:
        how = ["--config_file", operations.accelerate_config]
    else:  # --multi_gpu is its name for torchrun, GPU or not; port 0 is any that is free
        how = ["--multi_gpu", "--num_processes", str(operations.processes), "--main_process_port", "0"]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *how,
        "--module",
        "flows.training.launcher",
        str(run.path),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT)
        assert process.stdin is not None
        try:
            yield process
        finally:  # also if the flow is cancelled or has run out of time
            process.stdin.close()
            try:
                process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _last_step(metrics: Path) -> int:
    """Steps done, by the last whole line of `metrics.jsonl`, 0 before the first. Only the file's end is read."""
    if not metrics.exists():
        return 0
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - _END_BYTES))
        lines = file.read().split(b"\n")[:-1]  # what follows the last line's end is not whole yet
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _first_error(log: Path) -> tuple[str, bool]:
    """The first error that a process reported, or where to look; and whether it is transient."""
    for line in log.read_text(errors="replace").splitlines():
        for prefix in (_ERROR, _TRANSIENT):
            if line.startswith(prefix):
                return line.removeprefix(prefix), prefix == _TRANSIENT
    return f"the processes of the training ended without an error of ours: look at {log}", False


def main() -> None:
    """One of the processes."""
    threading.Thread(target=_end_with_the_flow, daemon=True).start()
    prepare_worker()
    from flows.training.student import train_student

    run = RunFolder(Path(sys.argv[1]))
    try:
        recipe = run.load_recipe()
        check_trust(recipe)  # the flow that started this process passes its own yes on
        train_student(recipe, run)
    except Exception as error:
        transient = is_transient(error)
        if not transient and not isinstance(error, DistilleryError):
            raise
        prefix = _TRANSIENT if transient else _ERROR
        print(f"\n{prefix}{' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(2)


def _end_with_the_flow() -> None:
    """The flow holds the other end of our standard input: a flow that was killed cannot tell us to stop."""
    while os.read(0, 1):  # not sys.stdin: its lock, held by this thread, would spoil an ordinary end
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
