"""The scores: which way to move a latent so that it fits a text better.

Hertz, Aberman and Cohen-Or, "Delta Denoising Score", ICCV 2023 (arXiv 2304.07090). Symbols as there: `z` the edited
latents and `z_hat` the reference, `y` and `y_hat` their texts, `eps` the noise, `omega` the guidance scale.

Every score is a gradient with respect to z, float (N, C, h, w), with the U-Net's Jacobian left out. Nothing is
weighted or averaged: `surrogate_loss` and its caller decide about that.
"""

import torch
from torch import Tensor

from synth.teacher import Conditioning, Teacher


def sds(teacher: Teacher, z: Tensor, y: Conditioning, timesteps: Tensor, eps: Tensor, omega: float) -> Tensor:
    """Score Distillation Sampling, the paper's eq. 2: eps^omega(z_t, y, t) - eps.

    Args:
        teacher: the frozen diffusion model.
        z: float (N, C, h, w).
        y: N texts.
        timesteps: int64 (N,).
        eps: float (N, C, h, w), standard normal.
        omega: the guidance scale, 1 or more.
    """
    z_t = teacher.add_noise(z.detach(), eps, timesteps)
    return teacher.predict_noise(z_t, timesteps, y, omega) - eps


def dds(
    teacher: Teacher,
    z: Tensor,
    z_hat: Tensor,
    y: Conditioning,
    y_hat: Conditioning,
    timesteps: Tensor,
    eps: Tensor,
    omega: float,
) -> Tensor:
    """Delta Denoising Score, the paper's eq. 3: eps^omega(z_t, y, t) - eps^omega(z_hat_t, y_hat, t).

    Both branches share t and eps, so that the bias that the teacher has on any picture cancels. Their four passes
    go through one network call.

    Args:
        teacher: the frozen diffusion model.
        z: the edited latents, float (N, C, h, w).
        z_hat: the reference latents, the same shape.
        y: N target texts.
        y_hat: N texts that describe the reference.
        timesteps: int64 (N,).
        eps: float (N, C, h, w), standard normal.
        omega: the guidance scale, 1 or more.
    """
    both = torch.cat([z.detach(), z_hat.detach()])  # (2N, C, h, w)
    z_t = teacher.add_noise(both, torch.cat([eps, eps]), torch.cat([timesteps, timesteps]))
    edited, reference = teacher.predict_noise(
        z_t, torch.cat([timesteps, timesteps]), Conditioning.cat([y, y_hat]), omega
    ).chunk(2)
    return edited - reference


def shared_source_dds(
    teacher: Teacher,
    z: Tensor,
    z_hat: Tensor,
    y: Conditioning,
    y_hat: Conditioning,
    timesteps: Tensor,
    eps: Tensor,
    omega: float,
) -> Tensor:
    """`dds` of K edits of each image, with the image's reference branch computed once: 2 + 2K passes for 4K.

    Args:
        teacher: the frozen diffusion model.
        z: float (N, K, C, h, w), edit k of image n at [n, k].
        z_hat: float (N, C, h, w).
        y: N * K target texts, image by image.
        y_hat: N texts.
        timesteps: int64 (N,), one an image, shared by its edits.
        eps: float (N, C, h, w), likewise.
        omega: the guidance scale, 1 or more.

    Returns:
        float (N, K, C, h, w): what `dds` gives for each pair.
    """
    num_edits = z.shape[1]
    edited_t, edited_eps = timesteps.repeat_interleave(num_edits), eps.repeat_interleave(num_edits, dim=0)
    both = torch.cat([z.detach().flatten(0, 1), z_hat.detach()])  # (NK + N, C, h, w)
    t = torch.cat([edited_t, timesteps])
    z_t = teacher.add_noise(both, torch.cat([edited_eps, eps]), t)
    predicted = teacher.predict_noise(z_t, t, Conditioning.cat([y, y_hat]), omega)
    edited, reference = predicted.split([len(edited_t), len(timesteps)])
    return edited.unflatten(0, z.shape[:2]) - reference[:, None]  # (N, K, C, h, w)


def surrogate_loss(z: Tensor, gradient: Tensor) -> Tensor:
    """A number whose autograd gradient with respect to `z` is exactly `gradient`: sum(z * stop_gradient(gradient)).

    Divide it by what you like: the gradient is divided by the same.
    """
    return (z * gradient.detach()).sum()
