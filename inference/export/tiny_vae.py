"""A small VAE instead of the teacher's: a model file spends most of its time in the VAE."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inference.runtime import UInt8Array
from synth.errors import ExportError, first_line
from synth.pixels import to_float
from synth.state import read_network, reading
from synth.teacher.teacher import Teacher

_REMEDY = "name another with export.vae"
_MAX_DISTANCE = 0.5  # of the latents' variance; VAEs that were trained independently differ by all of it and more


def open_tiny_vae(name: str, teacher: Teacher, images: UInt8Array) -> Any:
    """Open an AutoencoderTiny that shares the teacher's latents, in float32, on the CPU.

    Args:
        name: a folder, or a Hub id such as madebyollin/taesd.
        teacher: the teacher whose VAE it replaces.
        images: uint8 (N, H, W, 3), on which the latents are compared.

    Raises:
        ExportError: if it cannot be opened as an AutoencoderTiny, or its latents are not the teacher's.
    """
    vae = _open(name)
    x = to_float(torch.from_numpy(images))  # (N, 3, H, W)
    with torch.no_grad():
        z_teacher = teacher.encode(x.to(teacher.device)).float().cpu()  # (N, C, h, w)
        # The config may say anything: what it says is tried before it is trusted.
        with reading(f"export.vae: {name}", ExportError, _REMEDY):
            z = vae.encode(x).latents * float(vae.config.scaling_factor)  # (N, C, h, w) if it fits
            if not bool(z.isfinite().all()) or not bool(vae.decode(z).sample.isfinite().all()):
                raise ValueError("it makes numbers that are not finite")
    if z.shape != z_teacher.shape:
        raise ExportError(
            f"export.vae: {name} makes latents of {_shape(z)}, and {teacher.name} has {_shape(z_teacher)}: "
            "choose one that was made for this family"
        )
    distance = float((z - z_teacher).square().mean() / z_teacher.var())
    if not distance <= _MAX_DISTANCE:  # so written, a NaN fails too
        raise ExportError(
            f"export.vae: the latents of {name} are not those of {teacher.name}, they differ by {distance:.0%} of "
            "their variance: choose one that was made for this family"
        )
    return vae.eval().requires_grad_(False)


def _open(name: str) -> Any:
    """Open an AutoencoderTiny with all of its weights."""
    from diffusers import AutoencoderTiny

    if Path(name).is_dir():
        return read_network(AutoencoderTiny, Path(name), ExportError, _REMEDY)
    try:
        return AutoencoderTiny.from_pretrained(name, use_safetensors=True)
    except Exception as error:  # the Hub's, diffusers' and safetensors' errors share no base class
        raise ExportError(
            f"export.vae: {name} cannot be opened as an AutoencoderTiny: {first_line(error)}"
        ) from error


def _shape(latents: Tensor) -> str:
    return " x ".join(map(str, latents.shape[1:]))
