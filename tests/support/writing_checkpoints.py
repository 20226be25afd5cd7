"""Write checkpoints in a thread without end, whose numbers all are their step's: `writing_checkpoints.py RUN_FOLDER`.

It goes on after the newest one, as a training does.
"""

import sys
from pathlib import Path

import torch

from distill.settings import TrainingSettings
from distill.students import CompactStudent
from distill.training import checkpoints
from distill.training.checkpoint_writer import CheckpointWriter

SETTINGS = TrainingSettings(preset="short", student="compact", steps=10_000, keep_checkpoints=2)


def trained(value: float) -> tuple[CompactStudent, torch.optim.Adam]:
    """A student whose weights and moments all have one value."""
    student = CompactStudent(4, ["a"], ["a red sofa"], widths=(16, 16, 16))
    optimizer = torch.optim.Adam(student.parameters())
    for weight in student.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    fill(student, optimizer, value)
    return student, optimizer


@torch.no_grad()
def fill(student: CompactStudent, optimizer: torch.optim.Adam, value: float) -> None:
    for weight in student.parameters():
        weight.fill_(value)
        for kind in ("exp_avg", "exp_avg_sq"):
            optimizer.state[weight][kind].fill_(value)


def main(run_dir: Path) -> None:
    student, optimizer = trained(0.0)
    newest = checkpoints.latest(run_dir)
    step = 0 if newest is None else checkpoints.restore(newest, student, student, optimizer, {"data": "d"})
    writer = CheckpointWriter(run_dir, SETTINGS, {"data": "d"}, in_thread=True)
    first = step + 1
    while True:
        step += 1
        fill(student, optimizer, float(step))
        writer.write(step, student, student, optimizer)
        if step == first:
            writer.wait()
            print("it writes", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
