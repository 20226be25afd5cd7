"""A training's state on disk: safetensors and JSON, nothing that needs pickle. A checkpoint is whole or not there.

Draws follow from (seed, step, sample), so there is no random state to keep.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from synth.errors import TrainingError


def save(
    folder: Path, step: int, student: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str, keep: int
) -> None:
    """Write `folder/step_000500` after 500 steps, and drop all but the newest `keep`."""
    target = folder / f"step_{step:06d}"
    part = folder / f".{target.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    tensors = {f"student.{name}": value for name, value in student.state_dict().items()}
    for index, state in enumerate(optimizer.state_dict()["state"].values()):
        tensors |= {f"adam.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    # One storage each: tied or sliced tensors would be refused.
    save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        part / "state.safetensors",
    )
    (part / "position.json").write_text(json.dumps({"step": step, "fingerprint": fingerprint}) + "\n")
    for path in part.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old)


def resume(folder: Path, student: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str) -> int:
    """Load the newest checkpoint, if there is one; returns the number of steps done.

    Raises:
        TrainingError: if it belongs to other settings, data or teacher.
    """
    found = sorted(folder.glob("step_*"))
    if not found:
        return 0
    position = json.loads((found[-1] / "position.json").read_text())
    if position["fingerprint"] != fingerprint:
        raise TrainingError(
            f"{found[-1]} is of another training (settings, data or teacher differ): choose another --out"
        )
    tensors: dict[str, Tensor] = load_file(found[-1] / "state.safetensors")
    student.load_state_dict(_below("student.", tensors))
    described = optimizer.state_dict()
    described["state"] = {
        index: _below(f"adam.{index}.", tensors) for index in range(len(described["param_groups"][0]["params"]))
    }
    optimizer.load_state_dict(described)
    return int(position["step"])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
