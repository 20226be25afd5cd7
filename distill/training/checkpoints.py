"""Checkpoints of a training: a folder each, written whole or not at all, and readable without pickle.

    checkpoints/step_000500/
        student/            the network as diffusers saves it: a student, or a pixel network
        averaged/           its moving average, where there is one
        adam.safetensors    Adam's moments, by the parameters' names
        state.json          the step, and what the training depends on

No random state is stored, because there is none: every draw follows from (seed, step, sample).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers import ModelMixin
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import TypedDict

from distill.students import Student, load_student
from synth.errors import FileError, TrainingError
from synth.files import remove_folder, remove_partials, whole_folder
from synth.state import read_json, read_network, read_tensors, reading

_REMEDY = "delete this checkpoint's folder, and the training resumes from the one before it"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What torch's Adam stores for a parameter."""


def save(
    run_dir: Path,
    step: int,
    network: ModelMixin,
    averaged: ModelMixin | None,
    optimizer_state: Mapping[str, Any],
    depends_on: Mapping[str, Any],
    num_kept: int,
) -> Path:
    """Write a checkpoint, then remove all but the newest ones.

    Args:
        run_dir: the checkpoint becomes `checkpoints/step_<step>` in it.
        step: steps done.
        network: the one in training: a student, or a pixel network.
        averaged: its moving average, if there is one.
        optimizer_state: the state of Adam over all that the network learns.
        depends_on: what the weights follow from, as JSON values; `restore` compares it.
        num_kept: how many checkpoints stay.

    Returns:
        The checkpoint's folder.

    Raises:
        TrainingError: if it cannot be written, as on a full disk; earlier checkpoints stay as they are.
    """
    root = run_dir / "checkpoints"
    folder = root / f"step_{step:06d}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_partials(root)  # of a process that was killed while it wrote
        with whole_folder(folder) as temporary:
            network.save_pretrained(temporary / "student")
            if averaged is not None:
                averaged.save_pretrained(temporary / "averaged")
            save_file(_moments(network, optimizer_state), temporary / "adam.safetensors")
            state = {"step": step, "depends_on": depends_on}
            (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n")
    except (FileError, OSError, SafetensorError) as error:
        before = latest(run_dir)
        raise TrainingError(
            f"cannot write the checkpoint of step {step} to {root}: {error}; "
            + (
                f"{before.name} is whole: make room and run the same command again"
                if before
                else "there is no earlier one"
            )
        ) from error
    for old in _all(run_dir)[:-num_kept]:
        remove_folder(old)
    return folder


def latest(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of a run, or None."""
    return next(reversed(_all(run_dir)), None)


def restore_student(checkpoint: Path) -> Student:
    """Load the network to use, merged: the moving average where there is one, else the student itself."""
    averaged = checkpoint / "averaged"
    return load_student(averaged if averaged.exists() else checkpoint / "student").merged()


def trained_on(checkpoint: Path) -> str:
    """The fingerprint of the set that a checkpoint's network learnt from."""
    return str(_read_state(checkpoint)["depends_on"].get("data"))


def refuse_other_data(checkpoint: Path, fingerprint: str) -> None:
    """Check that a checkpoint's network learnt from the dataset of this fingerprint.

    Raises:
        TrainingError: if it did not.
    """
    if trained_on(checkpoint) != fingerprint:
        raise TrainingError(
            f"{checkpoint} was trained on other images, captions or slots than the dataset holds now: restore the "
            "dataset, or choose another run folder to train on this one"
        )


def restore(
    checkpoint: Path,
    network: ModelMixin,
    averaged: ModelMixin | None,
    optimizer: torch.optim.Optimizer,
    depends_on: Mapping[str, Any],
) -> int:
    """Load a checkpoint into the networks and the optimizer.

    Args:
        checkpoint: its folder.
        network: the one in training: a student, or a pixel network.
        averaged: its moving average, if there is one.
        optimizer: Adam, over all that the network learns.
        depends_on: what the weights follow from, as `save` got it.

    Returns:
        The number of steps done.

    Raises:
        TrainingError: if the checkpoint belongs to another training; the message says what differs.
    """
    refuse_other_data(checkpoint, str(depends_on["data"]))
    state = _read_state(checkpoint)
    stored = state["depends_on"]
    wanted = json.loads(json.dumps(depends_on))  # as JSON returns it: tuples become lists
    for name in sorted({*stored, *wanted}):
        if stored.get(name) != wanted.get(name):
            raise TrainingError(
                f"{checkpoint} belongs to another training: its {name} is {stored.get(name)!r}, this one's is "
                f"{wanted.get(name)!r}; restore the setting or choose another run folder"
            )
    with reading(checkpoint, TrainingError, _REMEDY):
        _load(network, checkpoint / "student")
        if averaged is not None:
            _load(averaged, checkpoint / "averaged")
    _restore_optimizer(checkpoint / "adam.safetensors", network, optimizer)
    return state["step"]


class _State(TypedDict):
    """What state.json holds."""

    step: Annotated[int, Field(ge=0, le=10**9)]
    depends_on: dict[str, Any]


def _read_state(checkpoint: Path) -> _State:
    state: _State = read_json(checkpoint / "state.json", _State, TrainingError, _REMEDY)
    return state


def _moments(network: ModelMixin, optimizer_state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Adam's state under the parameters' names; its one group holds all that the network learns, in their order."""
    names = _learned(network)
    return {
        f"{kind}/{names[number]}": tensors[kind].contiguous()
        for number, tensors in optimizer_state["state"].items()
        for kind in _MOMENTS
    }


def _restore_optimizer(file: Path, network: ModelMixin, optimizer: torch.optim.Optimizer) -> None:
    """Give Adam the moments in a file.

    Raises:
        TrainingError: if they are damaged, or of another network.
    """
    moments, _ = read_tensors(file, TrainingError, _REMEDY)
    with reading(file, TrainingError, _REMEDY):
        # torch numbers parameters, in the order in which the optimizer got them; the file names them.
        by_number: dict[int, dict[str, Tensor]] = {}
        shapes = {name: weight.shape for name, weight in network.named_parameters()}
        for number, name in enumerate(_learned(network)):
            by_number[number] = {kind: moments[f"{kind}/{name}"] for kind in _MOMENTS}
            if any(by_number[number][kind].shape != shapes[name] for kind in ("exp_avg", "exp_avg_sq")):
                raise ValueError(f"its moments of {name} have another shape")
        optimizer.load_state_dict({"state": by_number, "param_groups": optimizer.state_dict()["param_groups"]})


def _load(network: ModelMixin, folder: Path) -> None:
    """Give a network the weights in a folder, of a network of its own class."""
    network.load_state_dict(read_network(type(network), folder, TrainingError, _REMEDY).state_dict())


def _learned(network: ModelMixin) -> list[str]:
    """The names of the weights that are trained, in their order."""
    return [name for name, weight in network.named_parameters() if weight.requires_grad]


def _all(run_dir: Path) -> list[Path]:
    folders = (run_dir / "checkpoints").glob("step_*")
    numbered = {int(match[1]): path for path in folders if (match := re.fullmatch(r"step_([0-9]{1,9})", path.name))}
    return [numbered[step] for step in sorted(numbered)]
