"""Checkpoints of a training: a folder each, written whole or not at all, and readable without pickle.

    checkpoints/step_000500/
        student/            the network as diffusers saves it
        averaged/           its moving average, where there is one
        adam.safetensors    Adam's moments, by the parameters' names
        state.json          the step, and what the training depends on

No random state is stored, because there is none: every draw follows from (seed, step, sample).
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

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What torch's Adam stores for a parameter."""


def save(
    run_dir: Path,
    step: int,
    student: Student,
    averaged: Student | None,
    optimizer: torch.optim.Optimizer,
    depends_on: Mapping[str, Any],
    num_kept: int,
) -> Path:
    """Write a checkpoint, then remove all but the newest ones.

    Args:
        run_dir: the checkpoint becomes `checkpoints/step_<step>` in it.
        step: steps done.
        student: the network in training.
        averaged: its moving average, if there is one.
        optimizer: Adam, over all that the student learns.
        depends_on: what the weights follow from, as JSON values; `restore` compares it.
        num_kept: how many checkpoints stay.

    Returns:
        The checkpoint's folder.

    Raises:
        TrainingError: if it cannot be written, as on a full disk; earlier checkpoints stay as they are.
    """
    root = run_dir / "checkpoints"
    for leftover in root.glob(".*.part"):  # of a process that was killed while it wrote
        shutil.rmtree(leftover)
    folder = root / f"step_{step:06d}"
    part = root / f".step_{step:06d}.part"
    # Written beside its place, flushed and renamed, so that a kill or a full disk never leaves half a checkpoint.
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
            f"cannot write the checkpoint of step {step} to {root}: {error}; "
            + (
                f"{before.name} is whole: make room and run the same command again"
                if before
                else "there is no earlier one"
            )
        ) from error
    if folder.exists():
        _remove(folder)
    os.rename(part, folder)
    _flush(root)
    for old in _all(run_dir)[:-num_kept]:
        _remove(old)
    return folder


def latest(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of a run, or None."""
    return next(reversed(_all(run_dir)), None)


def restore_student(checkpoint: Path) -> Student:
    """Load the network to use, merged: the moving average where there is one, else the student itself."""
    averaged = checkpoint / "averaged"
    return load_student(averaged if averaged.exists() else checkpoint / "student").merged()


def trained_on(checkpoint: Path) -> str:
    """Return the fingerprint of the dataset that a checkpoint's network learned from."""
    return str(json.loads((checkpoint / "state.json").read_text())["depends_on"]["data"])


def restore(
    checkpoint: Path,
    student: Student,
    averaged: Student | None,
    optimizer: torch.optim.Optimizer,
    depends_on: Mapping[str, Any],
) -> int:
    """Load a checkpoint into the networks and the optimizer.

    Args:
        checkpoint: its folder.
        student: the network in training.
        averaged: its moving average, if there is one.
        optimizer: Adam, over all that the student learns.
        depends_on: what the weights follow from, as `save` got it.

    Returns:
        The number of steps done.

    Raises:
        TrainingError: if the checkpoint belongs to another training; the message says what differs.
    """
    state = json.loads((checkpoint / "state.json").read_text())
    stored = state["depends_on"]
    wanted = json.loads(json.dumps(depends_on))  # as JSON returns it: tuples become lists
    for name in sorted({*stored, *wanted}):
        if stored.get(name) != wanted.get(name):
            raise TrainingError(
                f"{checkpoint} belongs to another training: its {name} is {stored.get(name)!r}, this one's is "
                f"{wanted.get(name)!r}; restore the setting or choose another run folder"
            )
    student.load_state_dict(load_student(checkpoint / "student").state_dict())
    if averaged is not None:
        averaged.load_state_dict(load_student(checkpoint / "averaged").state_dict())
    moments = load_file(checkpoint / "adam.safetensors")
    # torch numbers parameters, in the order in which the optimizer got them; the file names them.
    by_number: dict[int, dict[str, Tensor]] = {}
    for number, name in enumerate(_learned(student)):
        by_number[number] = {kind: moments[f"{kind}/{name}"] for kind in _MOMENTS}
    optimizer.load_state_dict({"state": by_number, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(state["step"])


def _moments(student: Student, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's state under the parameters' names; its one group holds all that the student learns, in their order."""
    names = _learned(student)
    return {
        f"{kind}/{names[number]}": tensors[kind].contiguous()
        for number, tensors in optimizer.state_dict()["state"].items()
        for kind in _MOMENTS
    }


def _learned(student: Student) -> list[str]:
    """The names of the weights that are trained, in their order."""
    return [name for name, weight in student.named_parameters() if weight.requires_grad]


def _all(run_dir: Path) -> list[Path]:
    """All checkpoints of a run, the oldest first."""
    return sorted((run_dir / "checkpoints").glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))


def _remove(folder: Path) -> None:
    """Rename the folder first, so that a kill half-way leaves no half of a checkpoint."""
    doomed = folder.with_name(f".{folder.name}.old.part")
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def _flush(path: Path) -> None:
    """Force a file or a folder's entries onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
