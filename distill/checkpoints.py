"""Checkpoints of a training: a folder each, there whole or not at all, and nothing in it needs pickle.

    checkpoints/step_000500/
        student/            the network as diffusers saves it
        averaged/           its moving average, where one is kept
        adam.safetensors    the optimiser's moments, by parameter's name
        state.json          the step, and what the training depends on

No random state is stored, for there is none: every draw follows from (seed, step, sample).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import TypedDict

from distill.students import Student, load_student
from synth.errors import FileError, TrainingError
from synth.files import remove_folder, remove_partials, whole_folder
from synth.state import read_json, reading


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
    folder = root / f"step_{step:06d}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_partials(root)
        with whole_folder(folder) as temporary:
            student.save_pretrained(temporary / "student")
            if averaged is not None:
                averaged.save_pretrained(temporary / "averaged")
            save_file(_moments(student, optimizer), temporary / "adam.safetensors")
            state = {"step": step, "depends_on": depends_on}
            (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n")
    except (FileError, OSError, SafetensorError) as error:
        before = latest(run_dir)
        raise TrainingError(
            f"the checkpoint of step {step} cannot be written to {root}: {error}; "
            + (
                f"{before.name} is whole: mend that and call the same command again"
                if before
                else "there is none yet"
            )
        ) from error
    for old in _all(run_dir)[:-keep]:
        remove_folder(old)
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
    return str(_read_state(checkpoint)["depends_on"].get("data"))


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
    state = _read_state(checkpoint)
    stored, wanted = state["depends_on"], json.loads(json.dumps(depends_on))
    for name in sorted({*stored, *wanted}):
        if stored.get(name) != wanted.get(name):
            raise TrainingError(
                f"{checkpoint} is of another training: its {name} is {stored.get(name)!r}, this one's is "
                f"{wanted.get(name)!r}; restore the setting or choose another run folder"
            )
    with reading(checkpoint, TrainingError, _REMEDY):
        student.load_state_dict(load_student(checkpoint / "student").state_dict())
        if averaged is not None:
            averaged.load_state_dict(load_student(checkpoint / "averaged").state_dict())
        moments = load_file(checkpoint / "adam.safetensors")
        slots: dict[int, dict[str, Tensor]] = {}
        for number, name in enumerate(_learned(student)):
            slots[number] = {kind: moments[f"{kind}/{name}"] for kind in _KINDS}
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return state["step"]


class _State(TypedDict):
    """What state.json holds."""

    step: Annotated[int, Field(ge=0, le=10**9)]
    depends_on: dict[str, Any]


def _read_state(checkpoint: Path) -> _State:
    state: _State = read_json(checkpoint / "state.json", _State, TrainingError, _REMEDY)
    return state


_REMEDY = "delete this checkpoint's folder, and the training resumes from the one before it"
_KINDS = ("step", "exp_avg", "exp_avg_sq")


def _moments(student: Student, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's state under the parameters' names; its one group holds all that the student learns, in their order."""
    state = optimizer.state_dict()["state"]
    names = _learned(student)
    return {f"{kind}/{names[number]}": slot[kind].contiguous() for number, slot in state.items() for kind in _KINDS}


def _learned(student: Student) -> list[str]:
    return [name for name, weight in student.named_parameters() if weight.requires_grad]


def _all(run_dir: Path) -> list[Path]:
    folders = (run_dir / "checkpoints").glob("step_*")
    numbered = {int(match[1]): path for path in folders if (match := re.fullmatch(r"step_([0-9]{1,9})", path.name))}
    return [numbered[step] for step in sorted(numbered)]
