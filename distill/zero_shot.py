"""Zero-shot editing of images, without a training (paper, section 4).

The images are encoded near the teacher's own size, their latents are optimized (`distill.optimization`), and the
change is laid onto the originals (`distill.composition`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distill.composition import change_of_pixels
from distill.optimization import Progress, optimize
from distill.settings import EditSettings
from synth.errors import ImageInputError
from synth.images.reader import ImageError, SourceImage, read_image
from synth.pixels import to_float
from synth.teacher.teacher import Teacher

_MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class Edited:
    """The result of an edit."""

    images: Any
    """Of the input's size and kind: PIL images, or what `read_image` returns, with alpha, profile and EXIF as they
    came. For `output_type` "np" float32 (N, H, W, 3), for "pt" float32 (N, 3, H, W), both in [0, 1], in sRGB and on
    white where the input is transparent; for "latent" the latents, not decoded."""
    latents: Tensor
    """z, float32 (N, C, h, w)."""
    source_latents: Tensor
    """z_hat, float32 (N, C, h, w)."""


def edit(
    teacher: Teacher,
    image: Image.Image | SourceImage | Sequence[Image.Image | SourceImage],
    prompt: str | Sequence[str],
    source_prompt: str | Sequence[str] = "",
    settings: EditSettings | None = None,
    callback_on_step_end: Callable[[Progress], None] | None = None,
    generator: torch.Generator | None = None,
    output_type: Literal["pil", "np", "pt", "latent"] = "pil",
    **overrides: Any,
) -> Edited:
    """Edit images of one size together.

        teacher = Teacher.load(TeacherSettings(id="stable-diffusion-v1-5/stable-diffusion-v1-5"))
        edited = edit(teacher, image=room, source_prompt="a grey sofa", prompt="a red sofa", guidance_scale=7.5)
        edited.images[0].save("red.png")

    Args:
        teacher: the frozen model.
        image: PIL images of any mode, or what `read_image` returns, of any one size. They are edited near the
            teacher's own size, in sRGB and on white where they are transparent, and the change is laid onto the
            originals, so that a large image keeps its detail.
        prompt: what the images should show; one for all, or one each.
        source_prompt: what they show now; "" is the null text.
        settings: method, optimizer, iterations (default: the published ones, or the teacher's own).
        callback_on_step_end: called after each iteration.
        generator: draws the seed, as in diffusers (default: `settings.seed`).
        output_type: what `Edited.images` holds.
        overrides: keys of EditSettings that override `settings`, such as guidance_scale or iterations.

    Raises:
        pydantic.ValidationError: for settings that do not exist or are out of range.
        ImageInputError: for an empty prompt, no image, one that cannot be read, images of several sizes or of absurd
            ones, or a score that is not a finite number.
        TeacherError: if the teacher cannot score, or a prompt is too long for it.
    """
    if generator is not None:
        overrides["seed"] = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    settings = EditSettings.model_validate({**(settings or EditSettings()).model_dump(), **overrides})
    given = [image] if isinstance(image, Image.Image | SourceImage) else list(image)
    photos = [_photo(one) for one in given]
    images = [Image.fromarray(photo.on_ground()) for photo in photos]  # what the teacher sees
    prompts = _one_each(prompt, len(images))
    sources = _one_each(source_prompt, len(images))
    _check(images, prompts, sources)
    teacher.require_scorer()
    x = working_pixels(teacher, images)  # (N, 3, H, W)
    z_hat = teacher.encode(x).float()  # (N, C, h, w)
    y = teacher.encode_prompt(prompts)
    y_hat = teacher.encode_prompt(sources)

    def with_images(progress: Progress) -> None:
        assert callback_on_step_end is not None
        latents = progress.latents
        callback_on_step_end(replace(progress, images=lambda: compose(teacher, images, x, z_hat, latents)))

    z = optimize(teacher, z_hat, y, y_hat, settings, with_images if callback_on_step_end is not None else None)
    if output_type == "latent":
        return Edited(z, z, z_hat)
    edited: Any
    if output_type == "pil":
        laid = _laid_on(photos, _changes(teacher, x, z_hat, z))
        edited = [new if isinstance(old, SourceImage) else new.to_pil() for old, new in zip(given, laid, strict=True)]
        return Edited(edited, z, z_hat)
    laid_flat = compose(teacher, images, x, z_hat, z)
    edited = np.stack([np.asarray(image) for image in laid_flat]).astype(np.float32) / 255  # (N, H, W, 3)
    if output_type == "pt":
        edited = torch.from_numpy(edited).permute(0, 3, 1, 2).contiguous()  # (N, 3, H, W)
    return Edited(edited, z, z_hat)


def working_pixels(teacher: Teacher, images: Sequence[Image.Image]) -> Tensor:
    """Resize images of one size for the teacher.

    Returns:
        float (N, 3, H, W) in [-1, 1], near the teacher's own area and of the images' shape; H and W are multiples of
        what it can take.
    """
    factor = teacher.size_multiple
    scale = teacher.defaults.image_size / (images[0].width * images[0].height) ** 0.5
    width, height = (max(factor, round(side * scale / factor) * factor) for side in images[0].size)
    small = [image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS) for image in images]
    return to_float(torch.from_numpy(np.stack([np.asarray(image) for image in small])))


def check_size(width: int, height: int) -> None:
    """Refuse an image that no edit is meant for.

    Raises:
        ImageInputError: above 64 million pixels, or if one side is more than eight times the other.
    """
    if width * height > _MAX_PIXELS or max(width, height) > 8 * min(width, height):
        raise ImageInputError(
            f"an image of {width} x {height} cannot be edited: it is too large, or too long and narrow"
        )


def compose(
    teacher: Teacher, images: Sequence[Image.Image], x: Tensor, z_hat: Tensor, z: Tensor
) -> list[Image.Image]:
    """Lay the change onto the originals (see `distill.composition`), enlarged to their size.

    Args:
        teacher: its VAE decodes.
        images: the originals, of any one size.
        x: float (N, 3, H, W) in [-1, 1], what was encoded.
        z_hat: float (N, C, h, w).
        z: float (N, C, h, w).
    """
    photos = [SourceImage(np.asarray(image.convert("RGB"))) for image in images]
    return [Image.fromarray(laid.pixels) for laid in _laid_on(photos, _changes(teacher, x, z_hat, z))]


def _changes(teacher: Teacher, x: Tensor, z_hat: Tensor, z: Tensor) -> NDArray[np.float32]:
    """What edits add to the pixels that were encoded, (N, 3, H, W)."""
    edited = teacher.decode(z).float()  # (N, 3, H, W)
    plain = teacher.decode(z_hat).float()  # (N, 3, H, W)
    changes: NDArray[np.float32] = (
        change_of_pixels(x.to(edited), edited, plain, teacher.vae_scale_factor).cpu().numpy()
    )
    return changes


def _laid_on(photos: Sequence[SourceImage], changes: NDArray[np.float32]) -> list[SourceImage]:
    return [photo.with_change(change) for photo, change in zip(photos, changes, strict=True)]


def _photo(image: Image.Image | SourceImage) -> SourceImage:
    try:
        return read_image(image)
    except ImageError as error:
        raise ImageInputError(str(error)) from None


def _one_each(text: str | Sequence[str], num: int) -> list[str]:
    return [text] * num if isinstance(text, str) else list(text)


def _check(images: Sequence[Image.Image], prompts: Sequence[str], sources: Sequence[str]) -> None:
    if not images:
        raise ImageInputError("there is no image to edit")
    for name, texts in (("prompts", prompts), ("sources", sources)):
        if len(texts) != len(images):
            raise ImageInputError(
                f"there are {len(images)} images and {len(texts)} {name}: give one for all, or one each"
            )
    if not all(prompt.strip() for prompt in prompts):
        raise ImageInputError("the prompt is empty: say what the image should show")
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise ImageInputError(
            f"the images are of several sizes ({sizes[0]} and {sizes[1]}): edit those of one size together"
        )
    check_size(*sizes[0])
