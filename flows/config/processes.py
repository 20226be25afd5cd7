"""The processes that train a student together: as `operations.processes` or a file of `accelerate config` has it."""

from dataclasses import dataclass
from pathlib import Path

from flows.config.operations import OperationSettings


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them run here."""

    total: int
    """On all machines."""
    here: int
    """On this machine."""
    machine_rank: int = 0


def processes_of(operations: OperationSettings) -> Processes:
    """Read how many processes a training starts: one where accelerate will refuse its file."""
    file = operations.accelerate_config
    if file is None:
        return Processes(operations.processes, operations.processes)
    if not Path(file).is_file():
        return Processes(1, 1)
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        config = load_config_from_file(file)
        total = max(1, int(config.num_processes))
        return Processes(total, max(1, total // int(config.num_machines)), int(config.machine_rank))
    except Exception:  # accelerate itself reports what is wrong with the file, when it starts the processes
        return Processes(1, 1)
