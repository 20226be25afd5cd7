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

from collections.abc import Callable

import torch
from torch import Tensor

from synth.teacher.teacher import Conditioning, Teacher

Score = Callable[[Teacher, Tensor, Tensor, Conditioning, Conditioning, Tensor, Tensor, float], Tensor]
"""A gradient of K edits of each image, called as `shared_source_dds` is."""


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
    return shared_source_dds(teacher, z[:, None], z_hat, y, y_hat, t, eps, omega)[:, 0]


def shared_source_dds(
    teacher: Teacher,
    z: Tensor,
    z_hat: Tensor,
    y: Conditioning,
    y_hat: Conditioning,
    t: Tensor,
    eps: Tensor,
    omega: float,
) -> Tensor:
    """DDS of K edits of each image, all with the image's own t and eps, so that the reference branch runs once.

    It equals K calls of `dds` up to rounding, in 2 + 2K passes an image where those take 4K.

    Args:
        teacher: the frozen model.
        z: float (B, K, C, h, w), the edited latents.
        z_hat: float (B, C, h, w), the reference latents.
        y: of B*K texts, image by image: those of image 0 first.
        y_hat: of B texts.
        t: int64 (B,).
        eps: float (B, C, h, w).
        omega: the guidance scale.

    Returns:
        float (B, K, C, h, w), without a graph.
    """
    num_images, num_edits = z.shape[:2]
    z_hat_t = teacher.add_noise(z_hat, eps, t)  # (B, C, h, w)
    t_each = t.repeat_interleave(num_edits)  # (B*K,)
    eps_each = eps.repeat_interleave(num_edits, dim=0)  # (B*K, C, h, w)
    z_t = teacher.add_noise(z.detach().flatten(0, 1), eps_each, t_each)  # (B*K, C, h, w)
    # One batch for both branches: the network sees references and edits at once.
    eps_omega = teacher.predict_noise(
        torch.cat([z_hat_t, z_t]), torch.cat([t, t_each]), Conditioning.cat([y_hat, y]), omega
    )  # (B + B*K, C, h, w)
    reference = eps_omega[:num_images]  # (B, C, h, w)
    edited = eps_omega[num_images:]  # (B*K, C, h, w)
    return edited.reshape(z.shape) - reference[:, None]


def sds_of_edits(
    teacher: Teacher,
    z: Tensor,
    z_hat: Tensor,
    y: Conditioning,
    y_hat: Conditioning,
    t: Tensor,
    eps: Tensor,
    omega: float,
) -> Tensor:
    """SDS instead of `shared_source_dds`, with the same draws; z_hat and y_hat are ignored."""
    num_edits = z.shape[1]
    t_each = t.repeat_interleave(num_edits)  # (B*K,)
    eps_each = eps.repeat_interleave(num_edits, dim=0)  # (B*K, C, h, w)
    gradient = sds(teacher, z.detach().flatten(0, 1), y, t_each, eps_each, omega)  # (B*K, C, h, w)
    return gradient.reshape(z.shape)


def surrogate_loss(z: Tensor, gradient: Tensor) -> Tensor:
    """Return a scalar whose gradient with respect to z is exactly `gradient`; autograd then multiplies by dz/dtheta.

    Its value means nothing.
    """
    return (gradient.detach() * z).sum()


def identity_loss(z: Tensor, z_hat: Tensor) -> Tensor:
    """Return 1/2 ||z - z_hat||^2, whose gradient is z - z_hat: the regularizer of the supplement's section C."""
    return (z - z_hat).square().sum() / 2
