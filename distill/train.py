"""Distillation: train one student for all edits of a recipe (paper, section 4.2).

    loss(theta) = DDS(z, z_hat) + lambda_id / 2 |z - z_hat|^2,   z = z_hat + delta_theta(z_hat, edit)

The loop is a generator. It trains and keeps checkpoints; its caller logs, draws samples and stops.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from distill import checkpoints
from distill.schedules import cosine, linear_warmup
from distill.scores import shared_source_dds, surrogate_loss
from distill.settings import TrainingSettings
from distill.translator import LatentTranslator
from synth.dataset import PaintedSet
from synth.errors import TrainingError
from synth.prompts import Template
from synth.seeds import derive_seed
from synth.settings import Substitution
from synth.teacher import Conditioning, Teacher


@dataclass(frozen=True)
class StepRecord:
    """One step, as it is logged. Losses and norms are means over latent elements."""

    step: int
    delta_norm: float
    dds_norm: float
    identity: float
    guidance_scale: float
    lambda_id: float
    learning_rate: float
    gradient_norm: float
    seconds: float


def fingerprint(
    teacher: Teacher, painted: PaintedSet, edits: Mapping[str, Substitution], settings: TrainingSettings
) -> str:
    """All that the student's weights depend on, but for where the training ends and what is kept of it."""
    described = {
        "teacher": teacher.fingerprint,
        "data": painted.fingerprint,
        "edits": {name: dict(edit) for name, edit in edits.items()},
        "settings": settings.model_dump(exclude={"steps", "checkpoint_every", "keep_checkpoints", "preset"}),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def build_student(
    teacher: Teacher, template: Template, edits: Mapping[str, Substitution], settings: TrainingSettings
) -> LatentTranslator:
    """An untrained student. A context starts from its edit's text on the template's first scene."""
    if not edits:
        raise TrainingError("the recipe has no edits: add one under [edits]")
    slots = template.scene(0).slots
    return LatentTranslator.from_teacher(
        teacher, {name: template.edited(slots, edit) for name, edit in edits.items()}, settings.student_timestep
    )


def train(
    teacher: Teacher,
    student: LatentTranslator,
    painted: PaintedSet,
    template: Template,
    edits: Mapping[str, Substitution],
    settings: TrainingSettings,
    folder: Path,
) -> Iterator[StepRecord]:
    """Train `student` in place, from the newest checkpoint in `folder` on; yields after every step.

    Raises:
        TrainingError: if the set is empty, a checkpoint is of another training, or the loss is no number.
        RecipeError: if an edit names a slot that the template does not have.
    """
    if len(painted) == 0:
        raise TrainingError("the data set is empty: there is nothing to train on")
    if len(painted) < settings.batch_size:
        raise TrainingError(f"a batch of {settings.batch_size} needs as many images; the set has {len(painted)}")
    told = fingerprint(teacher, painted, edits, settings)
    optimizer = torch.optim.Adam(student.parameters(), lr=settings.learning_rate)
    start = checkpoints.resume(folder, student, optimizer, told)
    if start >= settings.steps:
        return
    latents = encode_images(teacher, painted)
    texts = _Texts(teacher, painted, template, edits)
    student.train()
    for step in range(start, settings.steps):
        began = time.perf_counter()
        chosen, timesteps, eps = draw(step, len(painted), latents.shape[1:], settings)
        timesteps, eps = timesteps.to(teacher.device), eps.to(teacher.device)
        guidance_scale = cosine(step, settings.guidance_start, settings.guidance_end, settings.guidance_steps)
        lambda_id = cosine(step, settings.lambda_id_start, settings.lambda_id_end, settings.lambda_id_steps)
        learning_rate = settings.learning_rate * linear_warmup(step, settings.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate

        z_hat = latents[chosen]  # (N, C, h, w)
        num, num_edits = len(z_hat), len(edits)
        edit = torch.arange(num_edits, device=z_hat.device).repeat(num)  # (NK,), image by image
        with _autocast(teacher.device):
            delta = student(z_hat.repeat_interleave(num_edits, dim=0), edit).float()  # (NK, C, h, w)
            delta = delta.unflatten(0, (num, num_edits))  # (N, K, C, h, w)
            z = z_hat[:, None] + delta
            y_hat, y = texts.of(chosen)
            gradient = shared_source_dds(teacher, z, z_hat, y, y_hat, timesteps, eps, guidance_scale)
        identity = 0.5 * delta.square().sum()
        # Means over samples and latent elements: a learning rate means the same for every batch and resolution.
        loss = (surrogate_loss(z, gradient.float()) + lambda_id * identity) / z.numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradient_norm = torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        if not torch.isfinite(gradient_norm):
            raise TrainingError(
                f"the gradient is no longer a number at step {step}: lower training.learning_rate or guidance_end; "
                f"the checkpoints in {folder} are intact"
            )
        optimizer.step()
        done = step + 1
        if done % settings.checkpoint_every == 0 or done == settings.steps:
            checkpoints.save(folder, done, student, optimizer, told, settings.keep_checkpoints)
        yield StepRecord(
            step=done,
            delta_norm=float(delta.detach().square().mean().sqrt()),
            dds_norm=float(gradient.square().mean().sqrt()),
            identity=float(identity.detach() / z.numel()),
            guidance_scale=guidance_scale,
            lambda_id=lambda_id,
            learning_rate=learning_rate,
            gradient_norm=float(gradient_norm),
            seconds=time.perf_counter() - began,
        )


def draw(
    step: int, num_images: int, shape: torch.Size, settings: TrainingSettings
) -> tuple[list[int], Tensor, Tensor]:
    """Which images a step takes, and each one's timestep and noise, from (seed, step, sample) alone.

    Returns:
        indices, int64 (N,) timesteps, float32 (N, C, h, w) noise.
    """
    chosen, timesteps, noises = [], [], []
    for sample in range(settings.batch_size):
        place = step * settings.batch_size + sample
        turn, position = divmod(place, num_images)
        order = torch.randperm(num_images, generator=_generator(settings.seed, "order", turn))
        generator = _generator(settings.seed, "step", step, sample)
        chosen.append(int(order[position]))
        timesteps.append(torch.randint(settings.min_timestep, settings.max_timestep, (1,), generator=generator))
        noises.append(torch.randn((1, *shape), generator=generator))
    return chosen, torch.cat(timesteps), torch.cat(noises)


def encode_images(teacher: Teacher, painted: PaintedSet, batch_size: int = 16) -> Tensor:
    """All images' latents, once: float32 (len(painted), C, h, w) on the teacher's device."""
    parts = []
    for start in tqdm(range(0, len(painted), batch_size), desc="encoding", unit="batch"):
        images = [
            torch.from_numpy(painted.image(i).copy()) for i in range(start, min(start + batch_size, len(painted)))
        ]
        if any(image.shape != images[0].shape for image in images):
            raise TrainingError("the data set's images are of different sizes: paint it at one image_size")
        x = torch.stack(images).permute(0, 3, 1, 2).float() / 127.5 - 1  # (N, 3, H, W)
        parts.append(teacher.encode(x).float())
    return torch.cat(parts)


class _Texts:
    """Each image's own prompt and its edited ones, embedded once for every distinct text."""

    def __init__(
        self, teacher: Teacher, painted: PaintedSet, template: Template, edits: Mapping[str, Substitution]
    ) -> None:
        self.teacher = teacher
        self._sources = painted.prompts
        self._targets = [[template.edited(slots, edit) for edit in edits.values()] for slots in painted.slots]
        self._known: dict[str, Tensor] = {}

    def of(self, chosen: list[int]) -> tuple[Conditioning, Conditioning]:
        """The references' texts (N) and the targets' (N * K, image by image)."""
        sources = [self._sources[index] for index in chosen]
        targets = [text for index in chosen for text in self._targets[index]]
        unknown = sorted({*sources, *targets} - self._known.keys())
        if unknown:
            embedded = self.teacher.encode_prompt(unknown).prompt_embeds
            self._known |= dict(zip(unknown, embedded, strict=True))
        return (
            Conditioning(torch.stack([self._known[text] for text in sources])),
            Conditioning(torch.stack([self._known[text] for text in targets])),
        )


def _generator(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(*parts))


def _autocast(device: torch.device) -> Any:
    """bfloat16 on GPUs, and on those CPUs that compute in it."""
    able = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=able)
