"""Checkpoints of a training: a folder each, there whole or not at all, and nothing in it needs pickle.

    checkpoints/step_000500/
        student/            the network as diffusers saves it
        averaged/           its moving average, where one is kept
        adam.safetensors    the optimiser's moments, by parameter's name
        state.json          the step, and what the training depends on

No random state is stored, for there is none: every draw follows from (seed, step, sample).
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.students import Student, load_student
from synth.errors import TrainingError


def save(
    run_dir: Path,
    step: int,
    student: Student,
    averaged: Student | None,
    optimizer: torch.optim.Optimizer,
    depends_on: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write `checkpoints/step_<step>` beside, flush it, rename it; then drop all but the last `keep`.

    Raises:
        TrainingError: if it cannot be written, as on a full disk; the checkpoints before it stay as they are.
    """
    root = run_dir / "checkpoints"
    for leftover in root.glob(".*.part"):  # of a run that was killed here
        shutil.rmtree(leftover)
    folder, part = root / f"step_{step:06d}", root / f".step_{step:06d}.part"
    try:
        part.mkdir(parents=True)
        student.save_pretrained(part / "student")
        if averaged is not None:
            averaged.save_pretrained(part / "averaged")
        save_file(_moments(student, optimizer), part / "adam.safetensors")
        (part / "state.json").write_text(json.dumps({"step": step, "depends_on": depends_on}, indent=2) + "\n")
        for path in [*part.rglob("*"), part]:
            _flush(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        before = latest(run_dir)
        raise TrainingError(
            f"the checkpoint of step {step} cannot be written to {root}: {error}; "
            + (
                f"{before.name} is whole: mend that and call the same command again"
                if before
                else "there is none yet"
            )
        ) from error
    if folder.exists():
        _remove(folder)
    os.rename(part, folder)
    _flush(root)
    for old in _all(run_dir)[:-keep]:
        _remove(old)
    return folder


def latest(run_dir: Path) -> Path | None:
    """The last checkpoint of a run, or None."""
    return next(reversed(_all(run_dir)), None)


def restore_student(checkpoint: Path) -> Student:
    """The network to use, merged: the moving average where there is one, else the student itself."""
    averaged = checkpoint / "averaged"
    return load_student(averaged if averaged.exists() else checkpoint / "student").merged()


def trained_on(checkpoint: Path) -> str:
    """The fingerprint of the set that a checkpoint's network learnt from."""
    return str(json.loads((checkpoint / "state.json").read_text())["depends_on"]["data"])


def restore(
    checkpoint: Path,
    student: Student,
    averaged: Student | None,
    optimizer: torch.optim.Optimizer,
    depends_on: Mapping[str, Any],
) -> int:
    """Put a checkpoint's state into the networks and the optimiser, and return the number of steps done.

    Raises:
        TrainingError: if the checkpoint is of another training; the message says what differs.
    """
    state = json.loads((checkpoint / "state.json").read_text())
    stored, wanted = state["depends_on"], json.loads(json.dumps(depends_on))
    for name in sorted({*stored, *wanted}):
        if stored.get(name) != wanted.get(name):
            raise TrainingError(
                f"{checkpoint} is of another training: its {name} is {stored.get(name)!r}, this one's is "
                f"{wanted.get(name)!r}; restore the setting or choose another run folder"
            )
    student.load_state_dict(load_student(checkpoint / "student").state_dict())
    if averaged is not None:
        averaged.load_state_dict(load_student(checkpoint / "averaged").state_dict())
    moments = load_file(checkpoint / "adam.safetensors")
    slots: dict[int, dict[str, Tensor]] = {}
    for number, name in enumerate(_learned(student)):
        slots[number] = {kind: moments[f"{kind}/{name}"] for kind in _KINDS}
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(state["step"])


_KINDS = ("step", "exp_avg", "exp_avg_sq")


def _moments(student: Student, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's state under the parameters' names; its one group holds all that the student learns, in their order."""
    state = optimizer.state_dict()["state"]
    names = _learned(student)
    return {f"{kind}/{names[number]}": slot[kind].contiguous() for number, slot in state.items() for kind in _KINDS}


def _learned(student: Student) -> list[str]:
    return [name for name, weight in student.named_parameters() if weight.requires_grad]


def _all(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "checkpoints").glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))


def _remove(folder: Path) -> None:
    """Renamed first, so that a kill half-way leaves no half of a checkpoint."""
    doomed = folder.with_name(f".{folder.name}.old.part")
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
