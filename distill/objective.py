"""What a training step minimises, and its gradient: a batch of images, each taken through all edits.

For each image z_hat with its source prompt y_hat, and each edit with its target prompt y, the student proposes
z = z_hat + delta(z_hat, edit), and moves along

    (eps^omega(z_t, y, t) - eps^omega(z_hat_t, y_hat, t) + lambda_id (z - z_hat)) dz/dtheta,

averaged over all elements of all the latents of a step (images x edits x C x h x w), so that a learning rate means
the same at every resolution, batch size and number of processes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor

from distill.pairs import Pairs
from distill.scores import Score, identity_loss, surrogate_loss
from distill.settings import TrainingSettings
from distill.students import Student
from synth.seeds import derive_seed
from synth.teacher.teacher import Conditioning, Teacher

_TEXTS_KEPT = 2048  # of Stable Diffusion's texts, about half a gigabyte in float32


class Objective:
    """The gradient of a training's steps. Every process of a training has one, over the same pairs.

    Args:
        teacher: the frozen model.
        student: whose gradient it is.
        pairs: what to look at.
        settings: how.
        score: the gradient of the proposals; the paper's is `scores.shared_source_dds`.
        processes: who shares the work; each has a student of its own, with the same weights.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: Student,
        pairs: Pairs,
        settings: TrainingSettings,
        score: Score,
        processes: PartialState,
    ) -> None:
        self._teacher, self._student, self._pairs = teacher, student, pairs
        self._settings, self._score, self._processes = settings, score, processes
        self._texts, self._autocast = _Texts(teacher), autocast_of(settings, teacher.device)

    def backward(self, step: int, omega: float, lambda_id: float) -> tuple[float, float]:
        """Add a step's gradient to the student's weights, the same on every process.

        Each process takes its share of the batch, some images at a time.

        Returns:
            The mean squares of the delta score and of z - z_hat, over the whole batch.
        """
        total, parts = self._settings.batch_size, self._processes.num_processes
        rank = self._processes.process_index
        share = range(total * rank // parts, total * (rank + 1) // parts)
        micro = self._settings.micro_batch_size or total
        dds = identity = 0.0
        for start in range(0, len(share), micro):
            figures = self._backward(step, share[start : start + micro], omega, lambda_id)
            dds, identity = dds + figures[0], identity + figures[1]
        return (dds, identity) if parts == 1 else self._sum_over_processes(dds, identity)

    def _backward(self, step: int, samples: range, omega: float, lambda_id: float) -> tuple[float, float]:
        """The part that some of the batch's images have in its gradient and in its figures."""
        pairs, settings, device = self._pairs, self._settings, self._teacher.device
        num_edits, shape = len(pairs.target_prompts[0]), pairs.latents.shape[1:]
        num_elements = settings.batch_size * num_edits * shape.numel()
        places = [step * settings.batch_size + sample for sample in samples]
        chosen = [draw_image(settings.seed, place, len(pairs.latents)) for place in places]
        drawn = [draw_noise(settings, step, sample, shape) for sample in samples]
        t = torch.stack([t for t, _ in drawn]).to(device)  # (B,)
        eps = torch.stack([eps for _, eps in drawn]).to(device)  # (B, C, h, w)
        z_hat = pairs.latents[chosen].to(device)  # (B, C, h, w)
        y_hat = self._texts([pairs.source_prompts[index] for index in chosen])
        y = self._texts([prompt for index in chosen for prompt in pairs.target_prompts[index]])
        edit = torch.arange(num_edits, device=device).repeat(len(chosen))  # (B*K,)
        with self._autocast():
            delta = self._student(z_hat.repeat_interleave(num_edits, dim=0), edit).float()  # (B*K, C, h, w)
        z = z_hat[:, None] + delta.reshape(len(chosen), num_edits, *shape)  # (B, K, C, h, w)
        with self._autocast():
            gradient = self._score(self._teacher, z, z_hat, y, y_hat, t, eps, omega)  # (B, K, C, h, w)
        loss = surrogate_loss(z, gradient) + lambda_id * identity_loss(z, z_hat[:, None])
        (loss / num_elements).backward()  # type: ignore[no-untyped-call]
        squares = gradient.square().sum(), delta.detach().square().sum()
        return float(squares[0]) / num_elements, float(squares[1]) / num_elements

    def _sum_over_processes(self, *figures: float) -> tuple[float, float]:
        for weight in self._student.parameters():
            if weight.requires_grad:  # where a process has no share of the batch, there is no gradient yet
                weight.grad = reduce(torch.zeros_like(weight) if weight.grad is None else weight.grad, "sum")
        dds, identity = reduce(torch.tensor(figures, device=self._teacher.device), "sum").tolist()
        return dds, identity


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


class _Texts:
    """Prompts -> their conditioning. Each is encoded by itself, so that it does not depend on its neighbours."""

    def __init__(self, teacher: Teacher) -> None:
        self._encode = lru_cache(_TEXTS_KEPT)(lambda prompt: teacher.encode_prompt([prompt]))

    def __call__(self, prompts: list[str]) -> Conditioning:
        return Conditioning.cat([self._encode(prompt) for prompt in prompts])


def autocast_of(settings: TrainingSettings, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """What the networks run under, to be entered anew for each call."""
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
