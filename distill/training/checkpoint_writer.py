"""When checkpoints are written, and by whom: on a GPU by a thread, from a snapshot, while the training goes on."""

import threading
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.settings import TrainingSettings
from distill.students import Student
from distill.training import checkpoints


class CheckpointWriter:
    """Writes the checkpoints of a training, one after another.

    Args:
        run_dir: `checkpoints/` is written there.
        settings: of the training: how often, and how many are kept.
        depends_on: what the weights follow from, for `checkpoints.save`.
        in_thread: return while a checkpoint is being written. A snapshot of all tensors is taken to the CPU before.

    As a context it waits for the last one at its end.
    """

    def __init__(
        self, run_dir: Path, settings: TrainingSettings, depends_on: Mapping[str, Any], in_thread: bool
    ) -> None:
        self._run_dir = run_dir
        self._settings = settings
        self._depends_on = depends_on
        self._in_thread = in_thread
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._last = time.monotonic()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint should follow the `step`th step: by its number, by the clock, or as the last one."""
        settings = self._settings
        by_clock = settings.checkpoint_minutes and time.monotonic() - self._last >= 60 * settings.checkpoint_minutes
        return bool(by_clock) or step % settings.checkpoint_every == 0 or step == settings.steps

    def write(self, step: int, student: Student, averaged: Student | None, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint; see `checkpoints.save`. In a thread, the one before it is waited for.

        Raises:
            TrainingError: if it, or the one before it, cannot be written.
        """
        self.wait()
        state = optimizer.state_dict()
        if not self._in_thread:
            self._save(step, student, averaged, state)
        else:
            copies = _snapshot(student), None if averaged is None else _snapshot(averaged), _on_cpu(state)
            self._thread = threading.Thread(target=self._try_save, args=(step, *copies), name="checkpoint")
            self._thread.start()
        self._last = time.monotonic()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            TrainingError: if it cannot be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _try_save(self, *checkpoint: Any) -> None:
        try:
            self._save(*checkpoint)
        except BaseException as error:  # for the loop's own thread
            self._error = error

    def _save(self, step: int, student: Student, averaged: Student | None, state: dict[str, Any]) -> None:
        settings = self._settings
        checkpoints.save(self._run_dir, step, student, averaged, state, self._depends_on, settings.keep_checkpoints)


def _snapshot(student: Student) -> Student:
    """A copy on the CPU; nothing more is held on the GPU while it is made."""
    tensors: dict[int, Any] = {
        id(weight): nn.Parameter(_cpu(weight.detach()), requires_grad=weight.requires_grad)
        for weight in student.parameters()
    }
    tensors |= {id(buffer): _cpu(buffer) for buffer in student.buffers()}
    copied: Student = deepcopy(student, tensors)
    return copied


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state, copied to the CPU."""
    copies = {
        number: {key: _cpu(value) if isinstance(value, Tensor) else value for key, value in own.items()}
        for number, own in state["state"].items()
    }
    return {**state, "state": copies}


def _cpu(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True)
