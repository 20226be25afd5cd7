"""The Delta Denoising Score (Hertz, Aberman, Cohen-Or, ICCV 2023, arXiv 2304.07090), and the score it came from.

A frozen text-to-image model sees a noised latent and a text, and predicts the noise. What it predicts beyond the
noise that was really added (SDS) says how the image should change to fit the text better. That direction is biased:
it is not zero for an image that already fits. DDS asks the same question about a reference image and the text that
describes it, with the same noise at the same time, and takes the difference: what is wrong in both cancels.

The symbols are the paper's.

    z, z_hat     latents, edited and reference     (N, C, h, w)
    y, y_hat     their texts, as Conditioning      of N
    t            timesteps of the teacher          int64 (N,), 0 to 999
    eps          the noise, shared by both         (N, C, h, w)
    omega        guidance scale, 1 or more
    z_t          sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) eps
    eps^omega    classifier-free-guided prediction, eps_null + omega (eps_y - eps_null)

Every score calls the teacher's network once and returns a gradient with respect to z. The network's own Jacobian is
left out, as in DreamFusion and in the paper: nothing here is differentiated through. All gradients are those of a sum
over samples and elements; a caller that wants a mean divides (see `distill.training.objective`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from synth.teacher.conditioning import rows_of
from synth.teacher.teacher import Conditioning, Teacher


class Sources:
    """The reference branch of B images of a step. An image's is predicted once, with the first of its edits.

    Args:
        z_hat: float (B, C, h, w), the reference latents.
        y_hat: of B texts, which describe them.
        t: int64 (B,), the timestep of each image and of all its edits.
        eps: float (B, C, h, w), their noise.
    """

    def __init__(self, z_hat: Tensor, y_hat: Conditioning, t: Tensor, eps: Tensor) -> None:
        self.z_hat = z_hat
        self.y_hat = y_hat
        self.t = t
        self.eps = eps
        self._predicted: dict[int, Tensor] = {}  # image -> eps^omega, (C, h, w)

    def missing(self, images: Sequence[int]) -> list[int]:
        """Those of the images whose branch is yet to predict, each once, in their order."""
        return [image for image in dict.fromkeys(images) if image not in self._predicted]

    def add(self, images: Sequence[int], eps_omega: Tensor) -> None:
        """Keep the predictions, (N, C, h, w), of N images."""
        self._predicted.update(zip(images, eps_omega, strict=True))

    def predictions(self, images: Sequence[int]) -> Tensor:
        """The predictions of N images, (N, C, h, w)."""
        return torch.stack([self._predicted[image] for image in images])


Score = Callable[[Teacher, Tensor, Conditioning, Sources, Sequence[int], float], Tensor]
"""A gradient of N pairs of an image and an edit, called as `shared_source_dds` is."""


def sds(teacher: Teacher, z: Tensor, y: Conditioning, t: Tensor, eps: Tensor, omega: float) -> Tensor:
    """Score Distillation Sampling: eps^omega(z_t, y, t) - eps. Two network passes a sample."""
    z_t = teacher.add_noise(z, eps, t)  # (N, C, h, w)
    return teacher.predict_noise(z_t, t, y, omega) - eps


def dds(
    teacher: Teacher,
    z: Tensor,
    z_hat: Tensor,
    y: Conditioning,
    y_hat: Conditioning,
    t: Tensor,
    eps: Tensor,
    omega: float,
) -> Tensor:
    """Delta Denoising Score: eps^omega(z_t, y, t) - eps^omega(z_hat_t, y_hat, t).

    It is the SDS of the edited pair minus the SDS of the reference pair: eps itself drops out. Four network passes a
    sample.
    """
    return shared_source_dds(teacher, z, y, Sources(z_hat, y_hat, t, eps), range(len(z)), omega)


def shared_source_dds(
    teacher: Teacher, z: Tensor, y: Conditioning, sources: Sources, images: Sequence[int], omega: float
) -> Tensor:
    """DDS of N pairs of an image and an edit; the edits of an image share its t, its eps and its reference branch.

    It equals `dds` of each pair up to rounding, in 2 + 2K passes an image with K edits where that takes 4K. The pairs
    of an image may come in several calls: the reference branch runs with the first.

    Args:
        teacher: the frozen model.
        z: float (N, C, h, w), the edited latents.
        y: of N texts.
        sources: the images' reference branches.
        images: N, each pair's image, by its place in `sources`.
        omega: the guidance scale, the same in all calls with these sources.

    Returns:
        float (N, C, h, w), without a graph.
    """
    new, each = sources.missing(images), list(images)
    t = rows_of(sources.t, [*new, *each])  # (new + N,)
    eps = rows_of(sources.eps, [*new, *each])  # (new + N, C, h, w)
    z_t = teacher.add_noise(torch.cat([rows_of(sources.z_hat, new), z.detach()]), eps, t)  # (new + N, C, h, w)
    # One batch for both branches: the network sees references and edits at once.
    eps_omega = teacher.predict_noise(z_t, t, Conditioning.cat([sources.y_hat[new], y]), omega)
    sources.add(new, eps_omega[: len(new)])
    return eps_omega[len(new) :] - sources.predictions(images)


def sds_of_edits(
    teacher: Teacher, z: Tensor, y: Conditioning, sources: Sources, images: Sequence[int], omega: float
) -> Tensor:
    """SDS instead of `shared_source_dds`, with the same draws; the reference branch is not looked at."""
    return sds(teacher, z.detach(), y, rows_of(sources.t, images), rows_of(sources.eps, images), omega)


def surrogate_loss(z: Tensor, gradient: Tensor) -> Tensor:
    """Return a scalar whose gradient with respect to z is exactly `gradient`; autograd then multiplies by dz/dtheta.

    Its value means nothing.
    """
    return (gradient.detach() * z).sum()


def identity_loss(z: Tensor, z_hat: Tensor) -> Tensor:
    """Return 1/2 ||z - z_hat||^2, whose gradient is z - z_hat: the regularizer of the supplement's section C."""
    return (z - z_hat).square().sum() / 2
