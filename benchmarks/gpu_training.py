"""The steps of `benchmarks/gpu.py` that train: each is called with whether shapes are tiny."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from full_size import full_size_teacher
from gpu_shared import GIB, Result, device_of, edits_of, pairs_of, timed
from torch import Tensor

from distill.scores import shared_source_dds
from distill.settings import TrainingSettings
from distill.students import Student, new_student
from distill.training import objective as objectives
from distill.training.checkpoint_writer import CheckpointWriter
from distill.training.checkpoints import latest, restore
from distill.training.footprint import footprint
from distill.training.objective import Objective
from distill.training.precision import autocast_of, autocast_of_score
from distill.training.train import new_optimizer
from synth.errors import TrainingError, first_line
from synth.teacher.families import StableDiffusion
from synth.teacher.hub import ModelFolder
from synth.teacher.teacher import Teacher

FITS: dict[str, tuple[int, dict[str, Any]]] = {
    "full": (24, {"gradient_checkpointing": True, "micro_batch_size": 1}),
    "lora": (12, {"gradient_checkpointing": True, "micro_batch_size": 1, "lora_rank": 16}),
    "compact": (12, {"student": "compact"}),
}
"""Kind -> GiB of the card, and settings of a training of six edits."""


def ladder(num_edits: int, tiny: bool) -> Result:
    """Time a step of the training with one thing added after the other."""
    teacher = full_size_teacher(device_of(tiny), tiny=tiny)
    student = new_student(teacher, edits_of(num_edits), TrainingSettings())
    rungs: dict[str, Callable[[], None]] = {
        "teacher inside autocast": lambda: _score_inside(True),
        "teacher outside": lambda: _score_inside(False),
        "student channels_last": lambda: student.to(memory_format=torch.channels_last),
        "cuDNN's search": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    }
    results: Result = {}
    for name, climb in rungs.items():
        climb()
        results[name] = _steps(teacher, student, num_edits)
    torch.backends.cudnn.benchmark = False
    return results


def compiled(tiny: bool) -> Result:
    """Time a step of the training with four edits and both networks compiled, block by block."""
    if tiny:
        return {"not run": "a compiler takes minutes on a CPU"}
    teacher = full_size_teacher(device_of(tiny))
    student = new_student(teacher, edits_of(4), TrainingSettings()).to(memory_format=torch.channels_last)
    for network in (student.unet, teacher.network):
        network.compile_repeated_blocks(fullgraph=True)
    return {"four edits": _steps(teacher, student, 4)}


def _score_inside(inside: bool) -> None:
    """Let the teacher's score be computed inside the student's autocast, or as the training does it."""
    objectives.autocast_of_score = (  # type: ignore[attr-defined]
        (lambda settings, teacher: autocast_of(settings, teacher.device)) if inside else autocast_of_score
    )


def _steps(teacher: Teacher, student: Student, num_edits: int) -> str:
    settings = TrainingSettings(batch_size=2)
    optimizer = new_optimizer(list(student.parameters()), 1e-5, teacher.device)
    try:
        pairs = pairs_of(teacher, num_edits)
        objective = Objective(teacher, student, pairs, settings, shared_source_dds, PartialState())
        return timed(teacher, lambda step: _train_step(objective, optimizer, step))
    except TrainingError as error:
        return str(error)


def fit(kind: str, tiny: bool) -> Result:
    """Train six edits in the memory of a smaller card, beside the estimate.

    Each kind has a process of its own: what one leaves in memory would not fit beside the next.
    """
    gib, overrides = FITS[kind]
    if not tiny:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total))
    teacher = full_size_teacher(device_of(tiny), tiny=tiny)
    settings = TrainingSettings(batch_size=2, **overrides)
    counted = footprint(_folder(teacher), edits_of(6), settings, teacher.defaults.image_size, teacher.dtype, not tiny)
    try:
        student = new_student(teacher, edits_of(6), settings)
        learned = [weight for weight in student.parameters() if weight.requires_grad]
        optimizer = new_optimizer(learned, 1e-5, teacher.device)
        objective = Objective(teacher, student, pairs_of(teacher, 6), settings, shared_source_dds, PartialState())
        took = timed(teacher, lambda step: _train_step(objective, optimizer, step))
    except (TrainingError, torch.OutOfMemoryError) as error:
        took = f"does not fit: {first_line(error)}"
    return {f"{kind} in {gib} GiB": f"{took}, counted {counted.allocated / GIB:.1f}"}


def _train_step(objective: Objective, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
    squares = objective.backward(step, omega=7.5, lambda_id=1.0)
    optimizer.step()
    objective.prepare(step + 1)
    return squares


def checkpoint(tiny: bool) -> Result:
    """Write a checkpoint by a thread, and restore it."""
    teacher = full_size_teacher(device_of(tiny), tiny=tiny)
    settings = TrainingSettings(steps=10**6)
    student = new_student(teacher, edits_of(2), settings)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-5)
    for weight in student.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        depends_on = {"data": "none"}
        writer = CheckpointWriter(Path(folder), settings, depends_on, in_thread=True)
        started = time.perf_counter()
        writer.write(1, student, None, optimizer)
        begun = time.perf_counter() - started
        writer.wait()
        ended = time.perf_counter() - started
        newest = latest(Path(folder))
        assert newest is not None
        started = time.perf_counter()
        restore(newest, student, None, optimizer, depends_on)
        return {
            "the loop waits, s": round(begun, 2),
            "on disk after, s": round(ended, 2),
            "restored in, s": round(time.perf_counter() - started, 2),
        }


def _folder(teacher: Teacher) -> ModelFolder:
    """The small files of a teacher that was never on disk."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-"))
    teacher.pipeline.vae.save_config(folder / "vae")
    index = {"vae": ["diffusers", type(teacher.pipeline.vae).__name__]}
    return ModelFolder("random weights", folder, StableDiffusion, index, dict(teacher.network.config), None)
