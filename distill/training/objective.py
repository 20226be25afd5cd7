"""What a training step minimizes, and its gradient: a batch of images, each taken through all edits, or some of them.

For each image z_hat with its source prompt y_hat, and each edit with its target prompt y, the student proposes
z = z_hat + delta(z_hat, edit), and its weights theta follow

    (eps^omega(z_t, y, t) - eps^omega(z_hat_t, y_hat, t) + lambda_id (z - z_hat)) dz/dtheta,

averaged over all elements of all latents of a step (images x edits x C x h x w), so that a learning rate means the
same at every resolution, batch size, number of edits and number of processes.

Shapes: B images of a micro-batch, K edits of each of them, C x h x w a latent. `distill.scores` has the other
symbols.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor

from distill.scores import Score, identity_loss, surrogate_loss
from distill.settings import TrainingSettings, edits_of_an_image
from distill.students import Student
from distill.training.pairs import Pairs
from synth.seeds import derive_seed
from synth.teacher.teacher import Conditioning, Teacher

_MAX_CACHED_PROMPTS = 2048  # of Stable Diffusion's texts, about half a gigabyte in float32


class Objective:
    """The gradient of a training's steps. Every process of a training has one, over the same pairs.

    Args:
        teacher: the frozen model.
        student: the network whose gradient it is.
        pairs: the training set.
        settings: of the training.
        score: the gradient of the proposals; the paper's is `scores.shared_source_dds`.
        processes: the processes that share the work; each has a student of its own, with the same weights.
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
        self._teacher = teacher
        self._student = student
        self._pairs = pairs
        self._settings = settings
        self._score = score
        self._processes = processes
        self._encode = _PromptCache(teacher)
        self._autocast = autocast_of(settings, teacher.device)

    def backward(self, step: int, omega: float, lambda_id: float) -> tuple[float, float]:
        """Add a step's gradient to the student's weights, the same on every process.

        Each process takes its share of the batch, a micro-batch at a time.

        Args:
            step: counted from 0; the draws follow from it.
            omega: guidance scale of the score.
            lambda_id: weight of the identity regularizer.

        Returns:
            The mean squares of the delta score and of z - z_hat, over the whole batch.
        """
        batch_size = self._settings.batch_size
        world_size = self._processes.num_processes
        rank = self._processes.process_index
        share = range(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)
        micro_batch_size = self._settings.micro_batch_size or batch_size
        dds = identity = 0.0
        for start in range(0, len(share), micro_batch_size):
            squares = self._backward(step, share[start : start + micro_batch_size], omega, lambda_id)
            dds += squares[0]
            identity += squares[1]
        return (dds, identity) if world_size == 1 else self._sum_over_processes(dds, identity)

    def _backward(self, step: int, samples: range, omega: float, lambda_id: float) -> tuple[float, float]:
        """Add what some of the batch's images contribute to the gradient; return their share of the mean squares."""
        pairs, settings, device = self._pairs, self._settings, self._teacher.device
        num_known = len(pairs.target_prompts[0])  # edits that the student learns
        num_edits = edits_of_an_image(settings, num_known)  # K
        shape = pairs.latents.shape[1:]  # (C, h, w)
        num_elements = settings.batch_size * num_edits * shape.numel()

        # Draws follow from (seed, step, sample): neither the micro-batch nor the process changes them.
        positions = [step * settings.batch_size + sample for sample in samples]
        chosen = [draw_image(settings.seed, position, len(pairs.latents)) for position in positions]
        drawn = [draw_noise(settings, step, sample, shape) for sample in samples]
        edits = [draw_edits(settings, step, sample, num_known) for sample in samples]  # B x K
        t = torch.stack([t for t, _ in drawn]).to(device)  # (B,)
        eps = torch.stack([eps for _, eps in drawn]).to(device)  # (B, C, h, w)
        z_hat = pairs.latents[chosen].to(device)  # (B, C, h, w)
        y_hat = self._encode([pairs.source_prompts[index] for index in chosen])  # of B
        targets = [
            pairs.target_prompts[index][edit] for index, own in zip(chosen, edits, strict=True) for edit in own
        ]
        y = self._encode(targets)  # of B*K

        # Each image is taken through several edits, so that they share the score's reference branch.
        edit = torch.tensor(edits, device=device).flatten()  # (B*K,)
        with self._autocast():
            delta = self._student(z_hat.repeat_interleave(num_edits, dim=0), edit).float()  # (B*K, C, h, w)
        z = z_hat[:, None] + delta.reshape(len(chosen), num_edits, *shape)  # (B, K, C, h, w)
        with self._autocast():
            gradient = self._score(self._teacher, z, z_hat, y, y_hat, t, eps, omega)  # (B, K, C, h, w)

        # The sum over this micro-batch over the elements of the whole batch: micro-batches and ranks simply add up.
        loss = surrogate_loss(z, gradient) + lambda_id * identity_loss(z, z_hat[:, None])
        (loss / num_elements).backward()  # type: ignore[no-untyped-call]
        squares = gradient.square().sum(), delta.detach().square().sum()
        return float(squares[0]) / num_elements, float(squares[1]) / num_elements

    def _sum_over_processes(self, *squares: float) -> tuple[float, float]:
        for weight in self._student.parameters():
            if weight.requires_grad:  # a process without a share of the batch has no gradient yet
                weight.grad = reduce(torch.zeros_like(weight) if weight.grad is None else weight.grad, "sum")
        dds, identity = reduce(torch.tensor(squares, device=self._teacher.device), "sum").tolist()
        return dds, identity


def draw_image(seed: int, position: int, num_images: int) -> int:
    """Choose the image in the `position`th place of a training: all of them in a shuffled order, over and over."""
    epoch, place = divmod(position, num_images)
    generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
    return int(torch.randperm(num_images, generator=generator)[place])


def draw_noise(settings: TrainingSettings, step: int, sample: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Draw t, int64 (), and eps, float32 of `shape`, for one image of one step: on the CPU, the same everywhere."""
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "step", step, sample))
    t = torch.randint(settings.min_timestep, settings.max_timestep + 1, (), generator=generator)
    return t, torch.randn(shape, generator=generator)


def draw_edits(settings: TrainingSettings, step: int, sample: int, num_known: int) -> list[int]:
    """Choose the edits that one image of one step is taken through, as their numbers, ascending.

    The images of a step take their edits one after another from one shuffled order of all edits, over and over: no
    image meets an edit twice, and every edit gets its share of each step, up to one.

    Args:
        settings: the seed, and how many edits an image gets.
        step: counted from 0.
        sample: the image's place in the step's batch.
        num_known: the number of all edits.
    """
    count = edits_of_an_image(settings, num_known)
    if count == num_known:
        return list(range(num_known))
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "edits", step))
    order = torch.randperm(num_known, generator=generator).tolist()
    return sorted(order[place % num_known] for place in range(sample * count, (sample + 1) * count))


class _PromptCache:
    """Prompts -> their conditioning. Each is encoded alone, so that it does not depend on its neighbours."""

    def __init__(self, teacher: Teacher) -> None:
        self._encode = lru_cache(_MAX_CACHED_PROMPTS)(lambda prompt: teacher.encode_prompt([prompt]))

    def __call__(self, prompts: list[str]) -> Conditioning:
        return Conditioning.cat([self._encode(prompt) for prompt in prompts])


def autocast_of(settings: TrainingSettings, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Choose the precision that the networks run in.

    Args:
        settings: `autocast` of them.
        device: where the networks are.

    Returns:
        A factory of context managers, since each can be entered once.
    """
    enabled = settings.autocast == "bfloat16"
    if settings.autocast == "auto":
        enabled = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else _cpu_multiplies_bfloat16(device)
        )
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def _cpu_multiplies_bfloat16(device: torch.device) -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # the oldest allowed torch lacks it
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
