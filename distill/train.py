"""Trains a student against the teacher with the Delta Denoising Score. The loop yields; its caller logs and stops.

What a step minimises is in `objective`. While omega rises, lambda_id falls. Several processes, started by
`accelerate launch`, train one student together: each takes its share of every batch.
"""

import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState

from distill import checkpoints
from distill.objective import Objective
from distill.pairs import prepare
from distill.schedules import cosine, linear_warmup
from distill.scores import Score, shared_source_dds
from distill.settings import FREE, TrainingSettings
from distill.students import Student, new_student
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import PhotoTexts, Template
from synth.errors import TrainingError
from synth.settings import Substitution
from synth.teacher.teacher import Teacher

_FREE = {*FREE, "steps", "sample_every", "patience"}  # between a checkpoint and its resumption


@dataclass(frozen=True)
class StepRecord:
    """What is worth knowing about a step."""

    step: int
    """Steps done so far, from 1 on."""
    dds: float
    """Mean square of the delta score. No sign of convergence: it may rise while the edits improve."""
    identity: float
    """Mean square of z - z_hat: how far the student moves its input."""
    guidance_scale: float
    lambda_id: float
    learning_rate: float
    grad_norm: float
    """Before it is clipped."""
    seconds: float
    """Wall time of this step."""
    images_per_second: float
    """Of all processes."""
    peak_memory_gib: float
    """The most that was held so far: on a GPU by torch there, else by the process. Of the main process."""
    student: Student = field(repr=False, compare=False)
    """The network to look at now (the moving average, where one is kept). It goes on changing."""

    def row(self) -> dict[str, float]:
        """The figures alone, for a log."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "student"}


def train(
    teacher: Teacher,
    painted: ImageDataset,
    texts: Template | PhotoTexts,
    edits: Mapping[str, Substitution],
    settings: TrainingSettings,
    run_dir: Path,
    progress: bool = True,
    score: Score = shared_source_dds,
) -> Iterator[StepRecord]:
    """Train until `settings.steps`, going on from the last checkpoint in `run_dir`, and yield once a step.

    Checkpoints are written every `checkpoint_every` steps and at the end, before the step is yielded;
    `checkpoints.restore_student` reads the result. Every draw follows from (seed, step, sample), so that a training
    which was stopped and goes on gives the very weights of one that was not: to the bit on a CPU with the same
    number of threads, and up to the kernels' own rounding on a GPU. Among several processes the main one writes;
    all must see the same `run_dir`.

    Args:
        teacher: the frozen model; it painted the set, or its VAE fits it.
        painted: the images, with their prompts and slots.
        texts: the template that the prompts were made from, or the texts of photographs.
        edits: name -> what it replaces.
        settings: how.
        run_dir: where `checkpoints/` goes.
        progress: show a bar while the images are encoded.
        score: what the proposals follow; an ablation may put another in the paper's place.

    Raises:
        TrainingError: if the set and the edits do not fit, the checkpoint is of another training, or the loss is no
            longer a number.
        TeacherError: if the teacher cannot score, or cannot read a prompt to its end.
    """
    processes = PartialState(cpu=teacher.device.type == "cpu")
    with processes.main_process_first():  # it encodes the images for all
        pairs = prepare(teacher, painted, texts, edits, run_dir / "latents", progress)
    student = new_student(teacher, dict(zip(edits, pairs.target_prompts[0], strict=True)), settings)
    frozen = {id(weight): weight for weight in student.parameters() if not weight.requires_grad}
    learned = [weight for weight in student.parameters() if weight.requires_grad]
    averaged = (
        deepcopy(student, frozen).requires_grad_(False) if settings.ema_decay else None
    )  # shares what is frozen
    optimizer = torch.optim.Adam(learned, lr=settings.learning_rate)
    depends_on = {
        **settings.model_dump(exclude=_FREE),
        "score": score.__name__,
        "teacher": teacher.fingerprint,
        "data": painted.fingerprint,
        "template": texts.identity,
        "edits": [[name, dict(edit)] for name, edit in edits.items()],  # a list: their order is their numbers
    }
    done = 0
    if (checkpoint := checkpoints.latest(run_dir)) is not None:
        done = checkpoints.restore(checkpoint, student, averaged, optimizer, depends_on)
    processes.wait_for_everyone()  # before the first of them writes another
    objective = Objective(teacher, student, pairs, settings, score, processes)

    for step in range(done, settings.steps):
        started = time.perf_counter()
        omega = cosine(step, settings.guidance_start, settings.guidance_end, settings.guidance_warmup_steps)
        lambda_id = cosine(step, settings.lambda_id_start, settings.lambda_id_end, settings.lambda_id_steps)
        rate_end = settings.learning_rate_end if settings.learning_rate_steps else settings.learning_rate
        learning_rate = cosine(step, settings.learning_rate, rate_end, settings.learning_rate_steps)
        learning_rate *= linear_warmup(step, settings.warmup_steps)
        optimizer.zero_grad(set_to_none=True)
        dds, identity = objective.backward(step, omega, lambda_id)
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in learned if weight.grad is not None])
        _refuse_not_a_number(step + 1, dds=dds, identity=identity, grad_norm=float(norm))
        if settings.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(learned, settings.max_grad_norm, norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        if averaged is not None:
            _average(averaged, student, settings.ema_decay, step)
        if processes.is_main_process and ((step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps):
            checkpoints.save(run_dir, step + 1, student, averaged, optimizer, depends_on, settings.keep_checkpoints)
        seconds = time.perf_counter() - started
        yield StepRecord(
            step + 1,
            dds,
            identity,
            omega,
            lambda_id,
            learning_rate,
            float(norm),
            seconds,
            settings.batch_size / seconds,
            _peak_memory_gib(teacher.device),
            averaged or student,
        )
    processes.wait_for_everyone()  # the last checkpoint is on disk


def _average(averaged: Student, student: Student, decay: float, step: int) -> None:
    """Moving average; the decay rises to its value, so that the first steps do not weigh for ever."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, weight in zip(averaged.parameters(), student.parameters(), strict=True):
            if weight.requires_grad:
                mean.lerp_(weight, 1 - decay)


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, KiB elsewhere


def _refuse_not_a_number(step: int, **figures: float) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"{name} is {value} at step {step}: lower training.learning_rate or training.guidance_end "
                "and train again in another folder"
            )
