"""Zero-shot editing: one image's latent is optimised until it fits another text (paper, section 4).

    z <- z - eta_n g(z),    g = eps^omega(z_t, y, t) - eps^omega(z_hat_t, y_hat, t),    z = z_hat at the start,

with t and eps drawn anew in every iteration. No network is trained, and the image is all the data there is.

The step's size. eta multiplies the score itself, element by element, so that it means the same at every resolution.
The supplement gives "learning rate 2"; the authors' notebook takes SGD at 0.1 on 2000 sum(z g) / (64 * 64), which is
a step of 0.049 g at their resolution and another at any other. Here the published 2 is taken to be that very step:
eta = learning_rate * STEP with STEP = 0.1 * 2000 / 64^2 / 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distill.composition import change_of_pixels
from distill.scores import dds, sds
from distill.settings import EditSettings
from synth.errors import ImageInputError
from synth.pixels import to_float, to_uint8
from synth.seeds import derive_seed
from synth.teacher.teacher import Conditioning, Teacher

STEP = 0.1 * 2000 / 64**2 / 2
"""What a learning rate of 1 multiplies the score by."""

_MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class Progress:
    """What a callback is told after an iteration. Tensors go on changing: clone what is kept."""

    iteration: int
    """From 1 on."""
    latents: Tensor
    """z, float32 (N, C, h, w)."""
    source_latents: Tensor
    """z_hat, float32 (N, C, h, w)."""
    update_norm: Tensor
    """float32 (N,): the Euclidean norm of this iteration's change of z."""
    pictures: Callable[[], list[Image.Image]]
    """The images as they are now, composed when it is called; none where latents alone are optimised."""


@dataclass(frozen=True)
class Edited:
    """The outcome."""

    images: Any
    """As large as what came in: PIL images; for `output_type` "np" float32 (N, H, W, 3), for "pt" float32
    (N, 3, H, W), both in [0, 1]; for "latent" the latents, not decoded."""
    latents: Tensor
    """z, float32 (N, C, h, w)."""
    source_latents: Tensor
    """z_hat, float32 (N, C, h, w)."""


def edit(
    teacher: Teacher,
    image: Image.Image | Sequence[Image.Image],
    prompt: str | Sequence[str],
    source_prompt: str | Sequence[str] = "",
    settings: EditSettings | None = None,
    callback_on_step_end: Callable[[Progress], None] | None = None,
    generator: torch.Generator | None = None,
    output_type: Literal["pil", "np", "pt", "latent"] = "pil",
    **changes: Any,
) -> Edited:
    """Edit images of one size together.

        teacher = Teacher.load(TeacherSettings(id="stable-diffusion-v1-5/stable-diffusion-v1-5"))
        edited = edit(teacher, image=room, source_prompt="a grey sofa", prompt="a red sofa", guidance_scale=7.5)
        edited.images[0].save("red.png")

    Args:
        teacher: the frozen model.
        image: RGB images of any size; they are worked on near the teacher's own size, and the change is laid onto
            the original, so that a large image keeps its detail.
        prompt: what they shall show; one for all, or one each.
        source_prompt: what they show now; "" is the null text.
        settings: method, optimiser, steps; by default the published ones, or what the teacher says of itself.
        callback_on_step_end: called after each iteration.
        generator: where the seed is drawn from, as in diffusers; None leaves it at `settings.seed`.
        output_type: what `Edited.images` holds.
        changes: any of EditSettings by name, such as guidance_scale, learning_rate or iterations, over `settings`.

    Returns:
        The images, as large as they were.

    Raises:
        pydantic.ValidationError: for settings that do not exist or are out of range.
        ImageInputError: for an empty prompt, no image, images of several sizes or of absurd ones, or when the score is
            no longer a number.
        TeacherError: if the teacher cannot score, or cannot read a prompt to its end.
    """
    if generator is not None:
        changes["seed"] = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    settings = EditSettings.model_validate({**(settings or EditSettings()).model_dump(), **changes})
    images = [image] if isinstance(image, Image.Image) else list(image)
    prompts, sources = (_for_each(text, len(images)) for text in (prompt, source_prompt))
    _check(images, prompts, sources)
    teacher.require_scorer()
    x = working_pixels(teacher, images)
    z_hat = teacher.encode(x).float()  # (N, C, h, w)
    y, y_hat = teacher.encode_prompt(prompts), teacher.encode_prompt(sources)

    def watch(progress: Progress) -> None:
        assert callback_on_step_end is not None
        latents = progress.latents
        callback_on_step_end(replace(progress, pictures=lambda: compose(teacher, images, x, z_hat, latents)))

    z = optimize(teacher, z_hat, y, y_hat, settings, watch if callback_on_step_end is not None else None)
    if output_type == "latent":
        return Edited(z, z, z_hat)
    pictures: Any = compose(teacher, images, x, z_hat, z)
    if output_type != "pil":
        pictures = np.stack([np.asarray(picture) for picture in pictures]).astype(np.float32) / 255
    if output_type == "pt":
        pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    return Edited(pictures, z, z_hat)


def completed(settings: EditSettings, teacher: Teacher) -> EditSettings:
    """The settings with the teacher's own wherever they leave the choice to it."""
    defaults = {
        "learning_rate": teacher.defaults.edit_learning_rate,
        "guidance_scale": teacher.defaults.edit_guidance_scale,
    }
    return settings.model_copy(update={k: v for k, v in defaults.items() if getattr(settings, k) is None})


def working_pixels(teacher: Teacher, images: Sequence[Image.Image]) -> Tensor:
    """Images of one size as float (N, 3, H, W) in [-1, 1], near the teacher's own area and shaped as they are; H
    and W are multiples of what it can take."""
    factor = teacher.size_multiple
    scale = teacher.defaults.image_size / (images[0].width * images[0].height) ** 0.5
    width, height = (max(factor, round(side * scale / factor) * factor) for side in images[0].size)
    small = [picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS) for picture in images]
    return to_float(torch.from_numpy(np.stack([np.asarray(picture) for picture in small])))


def check_size(width: int, height: int) -> None:
    """Refuse an image that no edit is meant for.

    Raises:
        ImageInputError: above 64 million pixels, or if one side is more than eight times the other.
    """
    if width * height > _MAX_PIXELS or max(width, height) > 8 * min(width, height):
        raise ImageInputError(f"a picture of {width} x {height} cannot be edited: too large, or too long and narrow")


def optimize(
    teacher: Teacher,
    z_hat: Tensor,
    y: Conditioning,
    y_hat: Conditioning,
    settings: EditSettings,
    callback_on_step_end: Callable[[Progress], None] | None = None,
) -> Tensor:
    """The iterations on latents.

    Args:
        teacher: the frozen model.
        z_hat: float (N, C, h, w), the images'.
        y: of N texts, what they shall show.
        y_hat: of N texts, what they show.
        settings: how.
        callback_on_step_end: called after each iteration.

    Returns:
        z, float32 (N, C, h, w). The draws follow from (seed, iteration) alone, see `draw`.

    Raises:
        ImageInputError: when the score is no longer a number.
    """
    settings = completed(settings, teacher)
    assert settings.learning_rate is not None
    z = torch.nn.Parameter(z_hat.clone())
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD([z], lr=1.0) if settings.optimizer == "sgd" else torch.optim.Adam([z], lr=1.0)
    )
    for iteration in range(settings.iterations):
        rate = settings.learning_rate * settings.decay ** (iteration // settings.decay_every)
        # Adam divides the score's own size away: with it, this is the step itself.
        optimizer.param_groups[0]["lr"] = rate * STEP
        t, eps = draw(settings, iteration, z_hat)
        before = z.detach().clone()
        z.grad = _gradient(teacher, before, z_hat, y, y_hat, t, eps, settings)
        if not bool(torch.isfinite(z.grad).all()):
            raise ImageInputError(
                f"the score is no number at iteration {iteration + 1}: lower the learning rate or the guidance, "
                "or run the teacher in float32"
            )
        optimizer.step()
        if callback_on_step_end is not None:
            update_norm = (z.detach() - before).flatten(1).norm(dim=1)
            shown = firmly_thresholded(z.detach(), z_hat, settings.firm_threshold)
            callback_on_step_end(Progress(iteration + 1, shown, z_hat, update_norm, list))
    return firmly_thresholded(z.detach(), z_hat, settings.firm_threshold)


def firmly_thresholded(z: Tensor, z_hat: Tensor, threshold: float) -> Tensor:
    """Put back what moved a little, keep what moved much: z_hat + m (z - z_hat).

    The score is noisy, and every place walks at random by about as much; what an edit asks for walks much further.
    Of each place's change, a vector over the channels of length l, m = (2 l / threshold - 1) between 0 and 1 is kept:
    firm thresholding (Gao and Bruce 1997), which shortens no large change as soft thresholding would.

    Args:
        z: float (N, C, h, w), edited.
        z_hat: float (N, C, h, w), what it was.
        threshold: in units of latents; 0 gives z itself.
    """
    if not threshold:
        return z
    change = z - z_hat
    length = change.norm(dim=1, keepdim=True)  # (N, 1, h, w)
    kept: Tensor = (2 * length / threshold - 1).clamp(0, 1)  # (N, 1, h, w)
    return z_hat + kept * change


def draw(settings: EditSettings, iteration: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """t, int64 (N,), and eps, shaped as `like`, of one iteration: drawn on the CPU, the same everywhere.

    All samples get the same, so that an image's edit does not depend on which others it is edited with.
    """
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "edit", iteration))
    t = torch.randint(settings.min_timestep, settings.max_timestep + 1, (1,), generator=generator)
    eps = torch.randn((1, *like.shape[1:]), generator=generator)
    return t.expand(len(like)).to(like.device), eps.expand_as(like).to(like)


def compose(
    teacher: Teacher, images: Sequence[Image.Image], x: Tensor, z_hat: Tensor, z: Tensor
) -> list[Image.Image]:
    """The originals with the change laid onto them (see `composition`), enlarged to their size.

    Args:
        teacher: whose VAE decodes.
        images: the originals, of any one size.
        x: float (N, 3, H, W) in [-1, 1], what was encoded.
        z_hat: float (N, C, h, w).
        z: float (N, C, h, w).
    """
    edited, plain = teacher.decode(z).float(), teacher.decode(z_hat).float()  # (N, 3, H, W)
    change = change_of_pixels(x.to(edited), edited, plain)  # (N, 3, H, W)
    width, height = images[0].size
    if (height, width) != tuple(x.shape[2:]):
        change = torch.nn.functional.interpolate(change, (height, width), mode="bicubic", antialias=True)
        x = to_float(torch.from_numpy(np.stack([np.asarray(picture.convert("RGB")) for picture in images])))
    return [Image.fromarray(pixels) for pixels in to_uint8(x.to(change.device) + change)]


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
    return score + settings.lambda_id * (z - z_hat)  # the L2 regulariser of the supplement's section C


def _for_each(text: str | Sequence[str], num: int) -> list[str]:
    return [text] * num if isinstance(text, str) else list(text)


def _check(images: Sequence[Image.Image], prompts: Sequence[str], sources: Sequence[str]) -> None:
    if not images:
        raise ImageInputError("there is no image to edit")
    if len(prompts) != len(images):
        raise ImageInputError(
            f"there are {len(images)} images and {len(prompts)} prompts: give one for all, or one each"
        )
    if len(sources) != len(images):
        raise ImageInputError(
            f"there are {len(images)} images and {len(sources)} sources: give one for all, or one each"
        )
    if not all(prompt.strip() for prompt in prompts):
        raise ImageInputError("the prompt is empty: say what the image shall show")
    sizes = sorted({picture.size for picture in images})
    if len(sizes) > 1:
        raise ImageInputError(
            f"the images are of several sizes ({sizes[0]} and {sizes[1]}): edit those of one together"
        )
    check_size(*sizes[0])
