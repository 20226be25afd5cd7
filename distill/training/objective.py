"""What a training step minimizes, and its gradient: a batch of images, each taken through all edits, or some of them.

For each image z_hat with its source prompt y_hat, and each edit with its target prompt y, the student proposes
z = z_hat + delta(z_hat, edit), and its weights theta follow

    (eps^omega(z_t, y, t) - eps^omega(z_hat_t, y_hat, t) + lambda_id (z - z_hat)) dz/dtheta,

averaged over all elements of all latents of a step (images x edits x C x h x w), so that a learning rate means the
same at every resolution, batch size, number of edits and number of processes.

The work of a step is its pairs of an image and an edit. Processes share them out, and each takes its share a
micro-batch at a time; the reference branch of an image runs once in each process that has one of its pairs.

Shapes: N pairs of a micro-batch, C x h x w a latent. `distill.scores` has the other symbols.
"""

import logging
from dataclasses import dataclass

import torch
from accelerate import PartialState
from torch import Tensor

from distill.scores import Score, Sources, identity_loss, surrogate_loss
from distill.settings import TrainingSettings, edits_of_an_image
from distill.students import Student
from distill.training.draws import draw_edits, draw_image, draw_noise, share_of
from distill.training.memory import knobs, out_of_memory
from distill.training.pairs import Pairs
from distill.training.precision import autocast_of, autocast_of_score
from distill.training.reduction import sum_over_processes
from distill.training.texts import TextCache
from synth.errors import TrainingError
from synth.teacher.conditioning import rows_of, to_device
from synth.teacher.teacher import Teacher

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Share:
    """One process's share of a step."""

    sources: Sources
    """The images that the process has pairs of."""
    source_places: list[int]
    """Of each pair: its image, by its place in `sources`."""
    edits: list[int]
    """Of each pair: its edit."""
    texts: list[str]
    """Of each pair: its target text."""


class Objective:
    """The gradient of a training's steps. Every process of a training has one, over the same pairs.

    Args:
        teacher: the frozen model.
        student: the network whose gradient it is.
        pairs: the training set.
        settings: of the training.
        score: the gradient of the proposals; the paper's is `scores.shared_source_dds`.
        processes: the processes that share the work; each has a student of its own, with the same weights.

    Raises:
        TrainingError: for more processes than a step has pairs.
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
        self._num_known = len(pairs.target_prompts[0])  # edits that the student learns
        self._num_edits = edits_of_an_image(settings, self._num_known)  # K
        self._num_pairs = settings.batch_size * self._num_edits
        check_processes(settings, self._num_known, processes.num_processes)
        self._at_once = settings.micro_batch_size or self._num_pairs
        self._was_halved = False
        self._autocast = autocast_of(settings, teacher.device)
        self._autocast_of_score = autocast_of_score(settings, teacher)
        self._prepared: tuple[int, _Share] | None = None  # of which step
        self._texts = TextCache(teacher)
        if teacher.device.type == "cuda":
            self._texts.encode_all(
                text
                for own in zip(pairs.source_prompts, pairs.target_prompts, strict=True)
                for text in (own[0], *own[1])
            )

    @property
    def num_elements(self) -> int:
        """Elements of all latents of a step, over which its figures are means."""
        return self._num_pairs * self._pairs.latents.shape[1:].numel()

    def prepare(self, step: int) -> None:
        """Draw a step's noise and read its images, while a GPU may still be busy with the step before."""
        self._prepared = step, self._share(step)

    def backward(self, step: int, omega: float, lambda_id: float) -> Tensor:
        """Set the student's gradient to a step's, the same on every process.

        Each process takes its share of the pairs, a micro-batch at a time. A micro-batch that does not fit into a
        GPU's memory is halved, once.

        Args:
            step: counted from 0; the draws follow from it.
            omega: guidance scale of the score.
            lambda_id: weight of the identity regularizer.

        Returns:
            The sums of the squares of the delta score and of z - z_hat, over all elements of the whole batch: float32
            (2,) on the device, so that nobody waits for it here.

        Raises:
            TrainingError: if it does not fit into memory.
        """
        if self._prepared is None or self._prepared[0] != step:
            self.prepare(step)
        assert self._prepared is not None
        share, self._prepared = self._prepared[1], None
        while (squares := self._backward_of(share, omega, lambda_id)) is None:
            self._halve()  # outside of an `except` block, whose exception's frames would keep the memory
        if self._processes.num_processes > 1:
            learned = [weight for weight in self._student.parameters() if weight.requires_grad]
            sum_over_processes(learned, squares)
        return squares

    def _backward_of(self, share: _Share, omega: float, lambda_id: float) -> Tensor | None:
        """Set the gradient to a share's; return its squares, or None if a micro-batch does not fit into memory."""
        self._student.zero_grad(set_to_none=True)
        squares = torch.zeros(2, device=self._teacher.device)
        try:
            for start in range(0, len(share.edits), self._at_once):
                squares += self._micro_batch(share, slice(start, start + self._at_once), omega, lambda_id)
        except torch.OutOfMemoryError:
            return None
        return squares

    def _micro_batch(self, share: _Share, chosen: slice, omega: float, lambda_id: float) -> Tensor:
        """Add what some of a share's pairs contribute to the gradient; return the sums of their squares, (2,)."""
        sources, device = share.sources, self._teacher.device
        images = share.source_places[chosen]  # of N
        z_hat = rows_of(sources.z_hat, images)  # (N, C, h, w)
        edit = to_device(torch.tensor(share.edits[chosen]), device)  # (N,)
        y = self._texts(share.texts[chosen])  # of N
        with self._autocast():
            delta = self._student(z_hat, edit).float()  # (N, C, h, w)
        z = z_hat + delta  # (N, C, h, w)
        with self._autocast_of_score():
            gradient = self._score(self._teacher, z, y, sources, images, omega)  # (N, C, h, w)

        # The sum over this micro-batch over the elements of the whole batch: micro-batches and ranks simply add up.
        loss = surrogate_loss(z, gradient) + lambda_id * identity_loss(z, z_hat)
        (loss / self.num_elements).backward()  # type: ignore[no-untyped-call]
        return torch.stack([gradient.square().sum(), delta.detach().square().sum()])

    def _share(self, step: int) -> _Share:
        """This process's share of a step. Draws follow from (seed, step, sample), whatever the share."""
        pairs, settings, device = self._pairs, self._settings, self._teacher.device
        own = share_of(self._num_pairs, self._processes.process_index, self._processes.num_processes)
        sample_and_turn = [divmod(pair, self._num_edits) for pair in own]  # the pair is its sample's `turn`th
        samples = sorted({sample for sample, _ in sample_and_turn})  # B, consecutive
        first = step * settings.batch_size
        images = [draw_image(settings.seed, first + sample, len(pairs.latents)) for sample in samples]
        drawn = [draw_noise(settings, step, sample, pairs.latents.shape[1:]) for sample in samples]
        sources = Sources(
            to_device(pairs.latents[images], device),  # (B, C, h, w)
            self._texts([pairs.source_prompts[image] for image in images]),
            to_device(torch.stack([t for t, _ in drawn]), device),  # (B,)
            to_device(torch.stack([eps for _, eps in drawn]), device),  # (B, C, h, w)
        )
        edits_of = {sample: draw_edits(settings, step, sample, self._num_known) for sample in samples}
        edits = [edits_of[sample][turn] for sample, turn in sample_and_turn]
        places = [sample - samples[0] for sample, _ in sample_and_turn]
        texts = [pairs.target_prompts[images[place]][edit] for place, edit in zip(places, edits, strict=True)]
        return _Share(sources, places, edits, texts)

    def _halve(self) -> None:
        """Halve the micro-batch after it has not fit into memory.

        Raises:
            TrainingError: if it was halved before, or cannot be.
        """
        self._student.zero_grad(set_to_none=True)
        at_once = min(self._at_once, self._num_pairs)
        if self._was_halved or at_once == 1:
            raise TrainingError(
                out_of_memory(knobs(self._settings), f"with {at_once} pairs of an image and an edit at once")
            )
        self._at_once, self._was_halved = at_once // 2, True
        logger.warning(
            f"out of memory with {at_once} pairs of an image and an edit at once: training with {self._at_once}, as "
            f"training.micro_batch_size={self._at_once} does from the start"
        )
        if self._teacher.device.type == "cuda":
            torch.cuda.empty_cache()


def check_processes(settings: TrainingSettings, num_known: int, world_size: int) -> None:
    """Refuse processes that would have nothing to do.

    Args:
        settings: of the training.
        num_known: the number of the recipe's edits.
        world_size: the number of processes.

    Raises:
        TrainingError: for more processes than a step has pairs of an image and an edit.
    """
    num_edits = edits_of_an_image(settings, num_known)
    num_pairs = settings.batch_size * num_edits
    if world_size > num_pairs:
        raise TrainingError(
            f"{world_size} processes share the pairs of an image and an edit of a step, and there are only "
            f"{settings.batch_size} images x {num_edits} edits = {num_pairs}: start at most {num_pairs} processes, "
            f"or raise training.batch_size to {-(-world_size // num_edits)}"
        )
