"""Train in several processes, which `accelerate launch` starts and the flow watches.

Each process runs `python -m flows.training.launcher RUN_FOLDER`.
"""

import json
import logging
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from pydantic import FiniteFloat

from flows.config.operations import OperationSettings
from flows.config.schema import Recipe
from flows.config.trust import check_trust
from flows.orchestration.children import first_error, started, work_for_the_flow
from flows.orchestration.environment import without_accelerate
from flows.orchestration.progress import Bar, open_progress
from flows.run.folder import RunFolder
from flows.training.student import train_student
from synth.errors import TrainingError
from synth.files import write_text
from synth.state import parse_json, reading
from synth.words import ascii_slug

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_TAIL_BYTES = 4096  # holds several lines


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
    with tempfile.TemporaryDirectory(prefix="distillery-launch-") as folder:
        options = launch_options(recipe.operations, Path(folder))
        script = ["--module", "flows.training.launcher", str(run.path)]
        command = [sys.executable, "-m", "accelerate.commands.launch", *options, *script]
        with (
            started(command, log, without_accelerate(os.environ)) as process,
            Bar("distilling", recipe.training.steps, "step", 0, artifact, False) as bar,
        ):
            while process.poll() is None:
                bar.advance_to(_last_step(run.metrics))
                time.sleep(_POLL_SECONDS)
            bar.advance_to(_last_step(run.metrics))
    if process.returncode != 0:
        if (error := first_error([log])) is not None:
            raise TrainingError(error.message) from error.cause
        raise TrainingError(
            f"the training's processes ended without reporting an error, as after a kill: see {log}, and run the "
            "same command again to resume from the last checkpoint"
        )


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


def main() -> None:
    """Train as one of the processes."""
    work_for_the_flow(_train)


def _train() -> None:
    run = RunFolder(Path(sys.argv[1]))
    recipe = run.load_recipe()
    check_trust(recipe)  # the flow passes its own consent on in the environment
    train_student(recipe, run)


if __name__ == "__main__":
    main()
