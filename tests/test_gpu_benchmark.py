"""`benchmarks/gpu.py` on tiny shapes and a CPU: each step's figures, and what happens to a step that cannot run."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # new processes look there, too
    try:
        yield importlib.import_module("gpu")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_steps_have_their_figures_in_small(gpu: ModuleType) -> None:
    """In this process, which has all imports already."""
    steps = gpu.gpu_steps
    trainings = gpu.gpu_training
    ladder = trainings.ladder(2, True)
    assert list(ladder) == ["teacher inside autocast", "teacher outside", "student channels_last", "cuDNN's search"]
    assert all(re.fullmatch(r"\d+ ms", value) for value in ladder.values())
    score = {name: float(value.split("%")[0]) for name, value in steps.score(True).items()}
    assert 0 < score["float16"] < score["bfloat16"] < 40
    assert set(steps.painting(True)) == {"PNDM, 50 steps", "DPM-Solver++, 25 steps"}
    assert set(trainings.checkpoint(True)) == {"the loop waits, s", "on disk after, s", "restored in, s"}
    assert re.fullmatch(r"\d+ ms", steps.decode(True)["ten images, one at a time"])
    files = steps.files(True)
    assert files.pop("float16, ONNX") == "not run: onnxruntime-gpu"
    assert list(files) == ["float32, PyTorch", "float16, PyTorch", "float16, TorchScript", "float16, pt2"]
    assert all(re.fullmatch(r"\d+ ms, off by \d.* in the mean, \d.* at most", value) for value in files.values())


def slow() -> dict[str, str]:
    time.sleep(60)
    return {}


def test_a_step_that_takes_too_long_is_ended(gpu: ModuleType) -> None:
    assert gpu.run(slow, seconds=0.1) == {"not run": "took more than 0 s"}


def killed() -> dict[str, str]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def test_a_step_whose_process_dies_says_how(gpu: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    """A pool of processes would wait for ever: what the kernel kills for its memory has no result."""
    result = gpu.run(killed, seconds=60)
    assert result.pop("seconds") < 60
    assert result == {"failed": "its process was ended by SIGKILL, perhaps for want of memory"}
    with pytest.raises(gpu.Died, match=r"^ValueError: one two$"):
        gpu.in_own_process(broken)
    assert 'raise ValueError("one\\ntwo")' in capfd.readouterr().err, "where it failed"


def test_a_fit_is_trained_and_counted(gpu: ModuleType) -> None:
    (value,) = gpu.gpu_training.fit("compact", True).values()
    assert re.fullmatch(r"\d+ ms, counted 0\.\d", value)


def no_package() -> dict[str, str]:
    raise ModuleNotFoundError(name="peft")


def broken() -> dict[str, str]:
    raise ValueError("one\ntwo")


def test_a_step_that_cannot_run_leaves_the_others(gpu: ModuleType) -> None:
    assert gpu._guarded(no_package) == {"not run": "peft"}
    assert gpu._guarded(broken) == {"failed": "ValueError: one two"}


@pytest.mark.slow
def test_the_plan_in_small_writes_what_it_has(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--tiny", "--out", out, "--only", "decode", "fit-full"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    results = json.loads(out.read_text())
    assert list(results) == ["device", "torch", "python", "decode", "fit-full"]
    assert set(results["fit-full"]) == {"full in 24 GiB", "seconds"}
    assert ended.stdout.startswith("cpu, tiny shapes, torch ")
