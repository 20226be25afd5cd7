"""A small VAE in the place of the teacher's: most of a model file's time is the VAE's."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inference.runtime import UInt8Array
from synth.errors import ExportError
from synth.pixels import to_float
from synth.teacher.teacher import Teacher

_MAX_DISTANCE = 0.5  # of the latents' variance; two VAEs that were trained apart differ by all of it and more


def fingerprint(name: str) -> str:
    """Of a folder's weights and config, for a VAE may be trained again; a Hub id stands for itself."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def open_tiny_vae(name: str, teacher: Teacher, images: UInt8Array) -> Any:
    """An AutoencoderTiny that speaks the teacher's latents, float32, on the CPU.

    Args:
        name: a folder, or a Hub id such as madebyollin/taesd.
        teacher: whose VAE it stands for.
        images: uint8 (N, H, W, 3), to see whether it does.

    Raises:
        ExportError: if it is not there or no AutoencoderTiny, or its latents are not the teacher's.
    """
    from diffusers import AutoencoderTiny

    try:
        vae: Any = AutoencoderTiny.from_pretrained(name, use_safetensors=True)
    except Exception as error:  # of the Hub, of diffusers, of safetensors: no class in common
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"export.vae: {name} cannot be opened as an AutoencoderTiny: {reason}") from error
    x = to_float(torch.from_numpy(images))  # (N, 3, H, W)
    with torch.no_grad():
        own = teacher.encode(x.to(teacher.device)).float().cpu()  # (N, C, h, w)
        z = vae.encode(x).latents * vae.config.scaling_factor  # (N, C, h, w), if it fits
    if z.shape != own.shape:
        raise ExportError(
            f"export.vae: {name} makes latents of {_shape(z)}, and {teacher.name} has {_shape(own)}: "
            "take one that was made for this family"
        )
    apart = float((z - own).square().mean() / own.var())
    if apart > _MAX_DISTANCE:
        raise ExportError(
            f"export.vae: the latents of {name} are not those of {teacher.name}, they differ by {apart:.0%} of their "
            "variance: take one that was made for this family"
        )
    return vae.eval().requires_grad_(False)


def _shape(latents: Tensor) -> str:
    return " x ".join(map(str, latents.shape[1:]))
