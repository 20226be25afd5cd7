"""Trains a student against the teacher with the Delta Denoising Score. The loop yields; its caller logs and stops.

What a step minimizes is in `distill.training.objective`. While omega rises, lambda_id falls (supplement,
section B). Several processes, started by `accelerate launch`, train one student together: each takes its share
of every batch.
"""

import math
import time
from collections.abc import Generator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from distill.scores import Score, shared_source_dds
from distill.settings import ROUNDING_KEYS, TrainingSettings
from distill.students import Student, new_student
from distill.training import checkpoints
from distill.training.checkpoint_writer import CheckpointWriter
from distill.training.memory import explained, knobs, peak_memory_bytes, release_memory
from distill.training.objective import Objective
from distill.training.pairs import prepare_pairs, report_captions
from distill.training.schedules import cosine, linear_warmup
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import PhotoTexts, Template
from synth.ema import ema_step
from synth.errors import TrainingError
from synth.settings import Substitution
from synth.teacher.teacher import Teacher

_MAY_CHANGE = {*ROUNDING_KEYS, "steps", "sample_every", "patience"}  # between a checkpoint and its resumption


@dataclass(frozen=True)
class StepRecord:
    """The metrics of a step, and the student after it."""

    step: int
    """Steps done so far, from 1 on."""
    dds: float
    """Mean square of the delta score. It shows no convergence: it may rise while the edits improve."""
    identity: float
    """Mean square of z - z_hat: how far the student moves its input."""
    guidance_scale: float
    lambda_id: float
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    seconds: float
    """Wall time of this step."""
    images_per_second: float
    """Of all processes together."""
    peak_memory_gib: float
    """The most held so far by the main process: by torch on a GPU, else by the process; 0 where it is unknown."""
    has_checkpoint: bool
    """Whether this process began to write a checkpoint after this step; that of an earlier step is on disk then."""
    student: Student = field(repr=False, compare=False)
    """The network to look at (the moving average, where there is one). It keeps changing."""

    def row(self) -> dict[str, float]:
        """The metrics alone, for a log."""
        return {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("student", "has_checkpoint")
        }


def train(
    teacher: Teacher,
    dataset: ImageDataset,
    texts: Template | PhotoTexts,
    edits: Mapping[str, Substitution],
    settings: TrainingSettings,
    run_dir: Path,
    progress: bool = True,
    score: Score = shared_source_dds,
) -> Generator[StepRecord]:
    """Train until `settings.steps`, resuming from the last checkpoint in `run_dir`, and yield once a step.

    Checkpoints are written every `checkpoint_every` steps, every `checkpoint_minutes` and at the end, before the step
    is yielded (on a GPU by a thread, which ends when the loop does); `checkpoints.restore_student` reads the result.
    Every draw follows from (seed, step, sample), so that a training which was stopped and resumed gives the very
    weights of one that was not: to the bit on a CPU with the same number of threads, and up to the kernels' own
    rounding on a GPU. Of several processes the main one writes; all must see the same `run_dir`.

    Args:
        teacher: the frozen model; it painted the dataset, or its VAE fits it.
        dataset: the images, with their prompts and slots.
        texts: the template that the prompts were made from, or the texts of photographs.
        edits: name -> what it replaces.
        settings: of the training.
        run_dir: `checkpoints/` and `latents/` are written there.
        progress: show a bar while the images are encoded.
        score: what the proposals follow (default: the paper's); the ablations try another.

    Raises:
        TrainingError: if the dataset and the edits do not fit, the checkpoint belongs to another training, or the
            loss is not a finite number.
        TeacherError: if the teacher cannot score, or a prompt is too long for it.
    """
    processes = PartialState(cpu=teacher.device.type == "cpu")
    with processes.main_process_first():  # it encodes the images for all
        pairs = prepare_pairs(teacher, dataset, texts, edits, run_dir / "latents", progress)
        if processes.is_main_process:
            report_captions(pairs, run_dir)

    release_memory(teacher.device)  # of a painting before
    with explained(knobs(settings), "before the first step"):
        student = new_student(teacher, dict(zip(edits, pairs.target_prompts[0], strict=True)), settings)
        averaged = _copy_for_average(student) if settings.ema_decay else None
    learned = [weight for weight in student.parameters() if weight.requires_grad]
    optimizer = new_optimizer(learned, settings.learning_rate, teacher.device)

    depends_on = _depends_on(teacher, dataset, texts, edits, settings, score)
    steps_done = 0
    if (checkpoint := checkpoints.latest(run_dir)) is not None:
        steps_done = checkpoints.restore(checkpoint, student, averaged, optimizer, depends_on)
    processes.wait_for_everyone()  # every process has read the checkpoint before the main one writes another
    writer = CheckpointWriter(run_dir, settings, depends_on, in_thread=teacher.device.type == "cuda")
    with explained(knobs(settings), "before the first step"):
        objective = Objective(teacher, student, pairs, settings, score, processes)

    with writer:
        for step in range(steps_done, settings.steps):
            started = time.perf_counter()
            omega, lambda_id, learning_rate = _schedules(settings, step)

            # Every process ends with the gradient of the whole batch, so that all take the same step.
            with explained(knobs(settings), f"at step {step + 1}"):
                squares = objective.backward(step, omega, lambda_id)
                norm = _clipped(learned, settings.max_grad_norm)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate
                optimizer.step()
                if averaged is not None:
                    ema_step(_averages(averaged, student), learned, settings.ema_decay, step)

                # A GPU is still at work: prepare the next step before its figures are read, which waits for it. A
                # step that went wrong is not kept.
                if step + 1 < settings.steps:
                    objective.prepare(step + 1)
            dds, identity, grad_norm = torch.cat([squares, norm[None]]).tolist()
            dds, identity = dds / objective.num_elements, identity / objective.num_elements
            _require_finite(step + 1, dds=dds, identity=identity, grad_norm=grad_norm)

            # Before the yield: a caller that stops here, and closes the loop, finds the checkpoint of the step that
            # it saw.
            due = processes.is_main_process and writer.is_due(step + 1)
            if due:
                writer.write(step + 1, student, averaged, optimizer)
            if step + 1 == settings.steps:
                writer.wait()
            seconds = time.perf_counter() - started
            yield StepRecord(
                step=step + 1,
                dds=dds,
                identity=identity,
                guidance_scale=omega,
                lambda_id=lambda_id,
                learning_rate=learning_rate,
                grad_norm=grad_norm,
                seconds=seconds,
                images_per_second=settings.batch_size / seconds,
                peak_memory_gib=peak_memory_bytes(teacher.device) / 2**30,
                has_checkpoint=due,
                student=averaged or student,
            )
    processes.wait_for_everyone()  # the last checkpoint is on disk


def _depends_on(
    teacher: Teacher,
    dataset: ImageDataset,
    texts: Template | PhotoTexts,
    edits: Mapping[str, Substitution],
    settings: TrainingSettings,
    score: Score,
) -> dict[str, Any]:
    """What a training's weights follow from: a checkpoint of anything else must not be resumed."""
    # Older checkpoints do not name edits_per_image, and took every image through all edits.
    without = {*_MAY_CHANGE, "edits_per_image"} if settings.edits_per_image == "all" else _MAY_CHANGE
    return {
        **settings.model_dump(exclude=without),
        "score": score.__name__,
        "teacher": teacher.fingerprint,
        "data": dataset.fingerprint,
        "template": texts.identity,
        "edits": [[name, dict(edit)] for name, edit in edits.items()],  # a list: their order is their numbers
    }


def _clipped(weights: list[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale a gradient that is longer than `max_norm` down to it, if that is not 0; return the norm before, ()."""
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    if max_norm:
        torch.nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
    return norm


def new_optimizer(weights: list[torch.nn.Parameter], learning_rate: float, device: torch.device) -> torch.optim.Adam:
    """Make a training's Adam.

    Args:
        weights: what it trains.
        learning_rate: of the first step.
        device: where the weights are. On a GPU it is one kernel for all of them, which needs no memory for itself: in
            PyTorch's default, by weights at once, the roots of the second moments are as large as the weights. On a
            CPU its rounding would differ from the default's.
    """
    return torch.optim.Adam(weights, lr=learning_rate, fused=True if device.type == "cuda" else None)


def _schedules(settings: TrainingSettings, step: int) -> tuple[float, float, float]:
    """omega, lambda_id and the learning rate of a step."""
    omega = cosine(step, settings.guidance_start, settings.guidance_end, settings.guidance_warmup_steps)
    lambda_id = cosine(step, settings.lambda_id_start, settings.lambda_id_end, settings.lambda_id_steps)
    rate_end = settings.learning_rate_end if settings.learning_rate_steps else settings.learning_rate
    learning_rate = cosine(step, settings.learning_rate, rate_end, settings.learning_rate_steps)
    return omega, lambda_id, learning_rate * linear_warmup(step, settings.warmup_steps)


def _copy_for_average(student: Student) -> Student:
    """A copy that shares the student's frozen weights, which no average changes."""
    frozen = {id(weight): weight for weight in student.parameters() if not weight.requires_grad}
    averaged: Student = deepcopy(student, frozen).requires_grad_(False)
    return averaged


def _averages(averaged: Student, student: Student) -> list[torch.Tensor]:
    """The averages of what the student learns, in the order of its weights."""
    pairs = zip(averaged.parameters(), student.parameters(), strict=True)
    return [average for average, weight in pairs if weight.requires_grad]


def _require_finite(step: int, **metrics: float) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"{name} is {value} at step {step}: lower training.learning_rate or training.guidance_end "
                "and train again in another folder"
            )
