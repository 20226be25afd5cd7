"""Trains a student against the teacher with the Delta Denoising Score. The loop yields; its caller logs and stops.

For each painted image z_hat, whose own prompt is y_hat, and each edit, whose target prompt y is the same words with
the edit's slots replaced, the student proposes z = z_hat + delta(z_hat, edit), and moves along

    (eps^omega(z_t, y, t) - eps^omega(z_hat_t, y_hat, t) + lambda_id (z - z_hat)) dz/dtheta,

averaged over all elements of all the latents of a step (images x edits x C x h x w), so that a learning rate means
the same at every resolution and batch size. While omega rises, lambda_id falls.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill import checkpoints
from distill.schedules import cosine, linear_warmup
from distill.scores import identity_loss, shared_source_dds, surrogate_loss
from distill.settings import TrainingSettings
from distill.translator import LatentTranslator
from synth.dataset import PaintedSet
from synth.errors import RecipeError, TrainingError
from synth.latents import encode
from synth.prompts import Template
from synth.seeds import derive_seed
from synth.settings import Substitution
from synth.teacher import Conditioning, Teacher

_TEXTS_KEPT = 2048  # of Stable Diffusion's texts, about half a gigabyte in float32

# What may change between a checkpoint and its resumption: none of it moves the curve but by rounding.
_FREE = {"preset", "steps", "micro_batch_size", "checkpoint_every", "keep_checkpoints", "sample_every"}


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
    seconds: float
    """Wall time of this step."""
    student: LatentTranslator = field(repr=False, compare=False)
    """The network to look at now (the moving average, where one is kept). It goes on changing."""

    def row(self) -> dict[str, float]:
        """The figures alone, for a log."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "student"}


@dataclass(frozen=True)
class Pairs:
    """The training set: M images, K edits."""

    latents: Tensor
    """z_hat, float32 (M, C, h, w), mapped from a file."""
    source_prompts: list[str]
    """M, each image's own."""
    target_prompts: list[list[str]]
    """M x K."""


def train(
    teacher: Teacher,
    painted: PaintedSet,
    template: Template,
    edits: Mapping[str, Substitution],
    settings: TrainingSettings,
    run_dir: Path,
    progress: bool = True,
) -> Iterator[StepRecord]:
    """Train until `settings.steps`, going on from the last checkpoint in `run_dir`, and yield once a step.

    Checkpoints are written every `checkpoint_every` steps and at the end, before the step is yielded;
    `checkpoints.load_student` reads the result. Every draw follows from (seed, step, sample), so that a training
    which was stopped and goes on gives the very weights of one that was not: to the bit on a CPU with the same
    number of threads, and up to the kernels' own rounding on a GPU.

    Args:
        teacher: the frozen model; it painted the set, or its VAE fits it.
        painted: the images, with their prompts and slots.
        template: what the prompts were made from.
        edits: name -> slots with their new values.
        settings: how.
        run_dir: where `checkpoints/` goes.
        progress: show a bar while the images are encoded.

    Raises:
        TrainingError: if the set and the edits do not fit, the checkpoint is of another training, or the loss is no
            longer a number.
        TeacherError: if the teacher cannot score, or cannot read a prompt to its end.
    """
    pairs = prepare(teacher, painted, template, edits, run_dir, progress)
    examples = dict(zip(edits, pairs.target_prompts[0], strict=True))
    student = LatentTranslator.from_teacher(teacher, examples, settings.student_timestep)
    averaged = deepcopy(student).requires_grad_(False) if settings.ema_decay else None
    optimizer = torch.optim.Adam(student.parameters(), lr=settings.learning_rate)
    depends_on = {
        **settings.model_dump(exclude=_FREE),
        "teacher": teacher.fingerprint,
        "data": painted.fingerprint,
        "template": template.settings.template,
        "edits": [[name, dict(edit)] for name, edit in edits.items()],  # a list: their order is their numbers
    }
    done = 0
    if (checkpoint := checkpoints.latest(run_dir)) is not None:
        done = checkpoints.restore(checkpoint, student, averaged, optimizer, depends_on)
    texts, autocast = _Texts(teacher), _autocast(settings, teacher.device)

    for step in range(done, settings.steps):
        started = time.perf_counter()
        omega = cosine(step, settings.guidance_start, settings.guidance_end, settings.guidance_warmup_steps)
        lambda_id = cosine(step, settings.lambda_id_start, settings.lambda_id_end, settings.lambda_id_steps)
        learning_rate = settings.learning_rate * linear_warmup(step, settings.warmup_steps)
        optimizer.zero_grad(set_to_none=True)
        dds, identity = _accumulate_gradients(
            teacher, student, pairs, texts, settings, step, omega, lambda_id, autocast
        )
        gradients = [weight.grad for weight in student.parameters() if weight.grad is not None]
        grad_norm = float(torch.nn.utils.get_total_norm(gradients))
        _refuse_not_a_number(step + 1, dds=dds, identity=identity, grad_norm=grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        if averaged is not None:
            _average(averaged, student, settings.ema_decay, step)
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            checkpoints.save(run_dir, step + 1, student, averaged, optimizer, depends_on, settings.keep_checkpoints)
        seconds = time.perf_counter() - started
        yield StepRecord(
            step + 1, dds, identity, omega, lambda_id, learning_rate, grad_norm, seconds, averaged or student
        )


def prepare(
    teacher: Teacher,
    painted: PaintedSet,
    template: Template,
    edits: Mapping[str, Substitution],
    run_dir: Path,
    progress: bool,
) -> Pairs:
    """Every image's latent and prompts, checked. Latents are kept in `run_dir/latents`.

    Raises:
        TrainingError: for an empty set, no edits, an edit of slots that do not exist.
        DatasetError: for images of several sizes, or of one that the VAE cannot take.
        TeacherError: for a teacher that cannot score, or prompts that it cannot read to their end.
    """
    teacher.require_scorer()
    if not len(painted):
        raise TrainingError("the data set is empty: there is nothing to train on; run `distillery synthesize` first")
    if not edits:
        raise TrainingError("there are no edits to train: name at least one under [edits] in the recipe")
    missing = sorted(set(template.settings.slots) - set(painted.slots[0]))
    if missing:
        raise TrainingError(
            f"the data set has no slot {missing[0]!r} that the template uses: it was painted from another template"
        )
    targets: list[list[str]] = [[] for _ in range(len(painted))]
    for name, edit in edits.items():
        try:
            for prompts, slots in zip(targets, painted.slots, strict=True):
                prompts.append(template.edited(slots, edit))
        except RecipeError as error:
            raise TrainingError(f"the edit {name!r} does not fit the template: {error}") from error
    teacher.check_prompts(sorted({*painted.prompts, *(prompt for prompts in targets for prompt in prompts)}))
    return Pairs(encode(teacher, painted, run_dir / "latents", progress), painted.prompts, targets)


def draw_image(seed: int, position: int, num_images: int) -> int:
    """Which image the training looks at in the `position`th place: all of them in a shuffled order, over and over."""
    epoch, place = divmod(position, num_images)
    generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
    return int(torch.randperm(num_images, generator=generator)[place])


def draw_noise(settings: TrainingSettings, step: int, sample: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """t, int64 (), and eps, float32 of `shape`, for one image of one step: drawn on the CPU, the same everywhere."""
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "step", step, sample))
    t = torch.randint(settings.min_timestep, settings.max_timestep + 1, (), generator=generator)
    return t, torch.randn(shape, generator=generator)


def _accumulate_gradients(
    teacher: Teacher,
    student: LatentTranslator,
    pairs: Pairs,
    texts: "_Texts",
    settings: TrainingSettings,
    step: int,
    omega: float,
    lambda_id: float,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[float, float]:
    """The whole batch, some images at a time. Returns the mean squares of the delta score and of z - z_hat."""
    batch_size, num_edits = settings.batch_size, len(pairs.target_prompts[0])
    shape, device = pairs.latents.shape[1:], teacher.device
    num_elements = batch_size * num_edits * shape.numel()
    micro = settings.micro_batch_size or batch_size
    dds = identity = 0.0
    for start in range(0, batch_size, micro):
        samples = range(start, min(start + micro, batch_size))
        chosen = [draw_image(settings.seed, step * batch_size + sample, len(pairs.latents)) for sample in samples]
        drawn = [draw_noise(settings, step, sample, shape) for sample in samples]
        t = torch.stack([t for t, _ in drawn]).to(device)  # (B,)
        eps = torch.stack([eps for _, eps in drawn]).to(device)  # (B, C, h, w)
        z_hat = pairs.latents[chosen].to(device)  # (B, C, h, w)
        y_hat = texts([pairs.source_prompts[index] for index in chosen])
        y = texts([prompt for index in chosen for prompt in pairs.target_prompts[index]])
        edit = torch.arange(num_edits, device=device).repeat(len(chosen))  # (B*K,)
        with autocast():
            delta = student(z_hat.repeat_interleave(num_edits, dim=0), edit).float()  # (B*K, C, h, w)
        z = z_hat[:, None] + delta.reshape(len(chosen), num_edits, *shape)  # (B, K, C, h, w)
        with autocast():
            gradient = shared_source_dds(teacher, z, z_hat, y, y_hat, t, eps, omega)  # (B, K, C, h, w)
        loss = surrogate_loss(z, gradient) + lambda_id * identity_loss(z, z_hat[:, None])
        (loss / num_elements).backward()  # type: ignore[no-untyped-call]
        dds += float(gradient.square().sum()) / num_elements
        identity += float(delta.detach().square().sum()) / num_elements
    return dds, identity


class _Texts:
    """Prompts -> their conditioning. Each is encoded by itself, so that it does not depend on its neighbours."""

    def __init__(self, teacher: Teacher) -> None:
        self._encode = lru_cache(_TEXTS_KEPT)(lambda prompt: teacher.encode_prompt([prompt]))

    def __call__(self, prompts: list[str]) -> Conditioning:
        return Conditioning.cat([self._encode(prompt) for prompt in prompts])


def _average(averaged: LatentTranslator, student: LatentTranslator, decay: float, step: int) -> None:
    """Moving average; the decay rises to its value, so that the first steps do not weigh for ever."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, weight in zip(averaged.parameters(), student.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)


def _autocast(settings: TrainingSettings, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    wanted = settings.autocast == "bfloat16"
    if settings.autocast == "auto":
        wanted = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else _cpu_multiplies_bfloat16(device)
        )
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def _cpu_multiplies_bfloat16(device: torch.device) -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in the oldest torch we allow
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _refuse_not_a_number(step: int, **figures: float) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"{name} is {value} at step {step}: lower training.learning_rate or training.guidance_end "
                "and train again in another folder"
            )
