"""The optimization of zero-shot editing: a latent moves until it fits another text (paper, section 4).

    z <- z - eta_n g(z),    g = eps^omega(z_t, y, t) - eps^omega(z_hat_t, y_hat, t),    z = z_hat at the start,

with t and eps drawn anew in every iteration. No network is trained, and the image is all the data there is.

The step size: eta multiplies the score itself, element by element, so that it means the same at every resolution. The
supplement gives "learning rate 2"; the authors' notebook uses SGD at 0.1 on 2000 sum(z g) / (64 * 64), a step of
0.049 g at their resolution and another one elsewhere. Here the published 2 means that very step:
eta = learning_rate * STEP with STEP = 0.1 * 2000 / 64^2 / 2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from distill.scores import dds, sds
from distill.settings import EditSettings
from synth.errors import ImageInputError
from synth.seeds import derive_seed
from synth.teacher.teacher import Conditioning, Teacher

STEP = 0.1 * 2000 / 64**2 / 2
"""The factor of the score at a learning rate of 1."""


@dataclass(frozen=True)
class Progress:
    """The state after an iteration, for a callback. The tensors keep changing: clone what you keep."""

    iteration: int
    """From 1 on."""
    latents: Tensor
    """z, float32 (N, C, h, w)."""
    source_latents: Tensor
    """z_hat, float32 (N, C, h, w)."""
    update_norm: Tensor
    """float32 (N,): the Euclidean norm of this iteration's change of z."""
    images: Callable[[], list[Image.Image]]
    """Composes the images as they are now; an empty list where only latents are optimized."""


def optimize(
    teacher: Teacher,
    z_hat: Tensor,
    y: Conditioning,
    y_hat: Conditioning,
    settings: EditSettings,
    callback_on_step_end: Callable[[Progress], None] | None = None,
) -> Tensor:
    """Optimize latents. The draws follow from (seed, iteration) alone, see `draw`.

    Args:
        teacher: the frozen model.
        z_hat: float (N, C, h, w), the images'.
        y: of N texts, what the images should show.
        y_hat: of N texts, what they show.
        settings: method, optimizer, iterations.
        callback_on_step_end: called after each iteration.

    Returns:
        z, float32 (N, C, h, w).

    Raises:
        ImageInputError: if the score is not a finite number.
    """
    settings = completed(settings, teacher)
    assert settings.learning_rate is not None
    z = torch.nn.Parameter(z_hat.clone())
    kind = torch.optim.SGD if settings.optimizer == "sgd" else torch.optim.Adam
    optimizer: torch.optim.Optimizer = kind([z], lr=1.0)
    for iteration in range(settings.iterations):
        rate = settings.learning_rate * settings.decay ** (iteration // settings.decay_every)
        # Adam normalizes the score's size away: with it, this is the step itself.
        optimizer.param_groups[0]["lr"] = rate * STEP
        t, eps = draw(settings, iteration, z_hat)  # (N,), (N, C, h, w)
        before = z.detach().clone()
        # The score is the gradient itself: nothing is differentiated (see `distill.scores`).
        z.grad = _gradient(teacher, before, z_hat, y, y_hat, t, eps, settings)
        if not bool(torch.isfinite(z.grad).all()):
            raise ImageInputError(
                f"the score is not a finite number at iteration {iteration + 1}: lower the learning rate or the "
                "guidance, or run the teacher in float32"
            )
        optimizer.step()
        if callback_on_step_end is not None:
            update_norm = (z.detach() - before).flatten(1).norm(dim=1)  # (N,)
            shown = firmly_thresholded(z.detach(), z_hat, settings.firm_threshold)
            callback_on_step_end(Progress(iteration + 1, shown, z_hat, update_norm, list))
    return firmly_thresholded(z.detach(), z_hat, settings.firm_threshold)


def completed(settings: EditSettings, teacher: Teacher) -> EditSettings:
    """Complete the settings with the teacher's own where they leave the choice to it."""
    defaults = {
        "learning_rate": teacher.defaults.edit_learning_rate,
        "guidance_scale": teacher.defaults.edit_guidance_scale,
    }
    return settings.model_copy(update={k: v for k, v in defaults.items() if getattr(settings, k) is None})


def firmly_thresholded(z: Tensor, z_hat: Tensor, threshold: float) -> Tensor:
    """Undo small changes and keep large ones: z_hat + m (z - z_hat).

    The score is noisy, and every place of the latent walks at random by about as much; what an edit asks for walks
    much further. Of each place's change, a vector over the channels of length l, the share m = (2 l / threshold - 1),
    clamped to [0, 1], is kept: firm thresholding (Gao and Bruce 1997), which does not shorten large changes as soft
    thresholding does.

    Args:
        z: float (N, C, h, w), edited.
        z_hat: float (N, C, h, w), the input's.
        threshold: in units of latents; 0 returns z itself.
    """
    if not threshold:
        return z
    change = z - z_hat
    length = change.norm(dim=1, keepdim=True)  # (N, 1, h, w)
    kept: Tensor = (2 * length / threshold - 1).clamp(0, 1)  # (N, 1, h, w)
    return z_hat + kept * change


def draw(settings: EditSettings, iteration: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Draw t, int64 (N,), and eps, of the shape of `like`, for one iteration: on the CPU, the same everywhere.

    All samples get the same, so that an image's edit does not depend on the others that it is edited with.
    """
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "edit", iteration))
    t = torch.randint(settings.min_timestep, settings.max_timestep + 1, (1,), generator=generator)
    eps = torch.randn((1, *like.shape[1:]), generator=generator)
    return t.expand(len(like)).to(like.device), eps.expand_as(like).to(like)


def _gradient(
    teacher: Teacher,
    z: Tensor,
    z_hat: Tensor,
    y: Conditioning,
    y_hat: Conditioning,
    t: Tensor,
    eps: Tensor,
    settings: EditSettings,
) -> Tensor:
    assert settings.guidance_scale is not None
    if settings.method == "dds":
        return dds(teacher, z, z_hat, y, y_hat, t, eps, settings.guidance_scale)
    score = sds(teacher, z, y, t, eps, settings.guidance_scale)
    if settings.method == "sds":
        return score
    return score + settings.lambda_id * (z - z_hat)  # the L2 regularizer of the supplement's section C
