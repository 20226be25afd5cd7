"""Checkpoints by the clock and by a thread: from a snapshot, whole under a kill, errors where the loop sees them."""

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from writing_checkpoints import SETTINGS, fill, trained

from distill.training import checkpoint_writer, checkpoints
from distill.training.checkpoint_writer import CheckpointWriter
from synth.errors import TrainingError

ROOT = Path(__file__).parents[2]


def values(checkpoint: Path) -> set[float]:
    """All numbers in a checkpoint but Adam's own count of steps."""
    files = sorted(checkpoint.rglob("*.safetensors"))
    assert {file.parent.name for file in files} == {"student", "averaged", checkpoint.name}
    tensors = [t for file in files for name, t in load_file(file).items() if not name.startswith("step/")]
    return {number for tensor in tensors for number in tensor.flatten().unique().tolist()}


def test_a_thread_writes_what_was_there_when_it_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, optimizer = trained(1.0)
    hold, save = threading.Event(), checkpoints.save

    def slow(*arguments: object) -> object:
        hold.wait(10)
        return save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint_writer.checkpoints, "save", slow)
    with CheckpointWriter(tmp_path, SETTINGS, {"data": "d"}, in_thread=True) as writer:
        writer.write(1, student, student, optimizer)
        fill(student, optimizer, 2.0)  # the training goes on
        assert checkpoints.latest(tmp_path) is None
        hold.set()
    latest = checkpoints.latest(tmp_path)
    assert latest is not None and latest.name == "step_000001" and values(latest) == {1.0}
    loaded, other = trained(0.0)
    assert checkpoints.restore(latest, loaded, None, other, {"data": "d"}) == 1
    assert all(bool((weight == 1).all()) for weight in loaded.parameters())


@pytest.mark.parametrize("in_thread", [True, False])
def test_what_cannot_be_written_ends_the_training(tmp_path: Path, in_thread: bool) -> None:
    student, optimizer = trained(1.0)
    (tmp_path / "checkpoints").write_text("a file")
    writer = CheckpointWriter(tmp_path, SETTINGS, {"data": "d"}, in_thread)
    with pytest.raises(TrainingError, match="cannot write the checkpoint of step 1"), writer:
        writer.write(1, student, student, optimizer)
    writer.wait()  # it is said once


def test_the_clock_asks_for_checkpoints_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    settings = SETTINGS.model_copy(update={"checkpoint_every": 50, "checkpoint_minutes": 20.0, "steps": 77})
    student, optimizer = trained(1.0)
    writer = CheckpointWriter(tmp_path, settings, {"data": "d"}, in_thread=False)
    assert [step for step in range(1, 78) if writer.is_due(step)] == [50, 77]
    now[0] += 20 * 60
    assert writer.is_due(3)
    writer.write(3, student, student, optimizer)
    assert not writer.is_due(4)
    now[0] += 19 * 60
    assert not writer.is_due(5)
    never = settings.model_copy(update={"checkpoint_minutes": 0})
    writer = CheckpointWriter(tmp_path, never, {"data": "d"}, in_thread=False)
    now[0] += 10**6
    assert not writer.is_due(3)


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_under_sigkill_the_last_checkpoint_is_whole(tmp_path: Path, kills: int) -> None:
    """At random moments of a process that writes all the time, and changes the weights meanwhile."""
    command = [sys.executable, ROOT / "tests" / "support" / "writing_checkpoints.py", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    rng, steps = random.Random(0), [0]
    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it writes
            time.sleep(rng.uniform(0.05, 0.6))
            process.kill()
        latest = checkpoints.latest(tmp_path)
        assert latest is not None
        step = int(latest.name.removeprefix("step_"))
        assert values(latest) == {float(step)}
        steps.append(step)
    assert steps == sorted(set(steps)), "each process goes on where the one before it was killed"
