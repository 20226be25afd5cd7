"""What is in a model file, as a module of PyTorch: image, edit and strength in, the translated image out."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from distill.composition import change_of_pixels
from distill.pixel import PixelNetwork

Module = TypeVar("Module", bound=nn.Module)


class ExportModule(nn.Module):
    """All that a model file computes: image to latent, the student, and back as a change of pixels.

    It is on the CPU, in `dtype`; the originals do not change. Weights that are there already, in that precision, are
    shared with them: at Stable Diffusion's size a copy has 3.5 GiB. Inputs and output are always float32.

    Args:
        vae: a diffusers AutoencoderKL or AutoencoderTiny.
        student: forward(latents (N, C, h, w), edit int64 (N,)) -> delta (N, C, h, w).
        dtype: of the weights; in float16 the normalizations stay in float32.
    """

    def __init__(self, vae: Any, student: nn.Module, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.vae = with_shared_weights(vae)
        self.vae.disable_tiling()
        self.vae.disable_slicing()
        self.student = with_shared_weights(student)
        self.cpu().to(dtype).eval()
        if dtype == torch.float16:
            _keep_norms_exact(self)
        self.scale = float(vae.config.scaling_factor)
        self.shift = float(vae.config.shift_factor or 0.0)
        self.dtype = dtype
        # Pixels a side of a latent: each level of the VAE but the last halves the sides.
        self.cell = 2 ** (len(vae.config.block_out_channels) - 1)

    def forward(self, image: Tensor, edit: Tensor, strength: Tensor) -> Tensor:
        """image (N, 3, H, W) in [-1, 1], edit int64 (N,), strength float (N,) -> translated (N, 3, H, W)."""
        encoded = self.vae.encode(image.to(self.dtype))
        # An AutoencoderTiny has no posterior: it returns the latents themselves.
        mean = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        z = (mean - self.shift) * self.scale  # (N, C, h, w)
        delta = self.student(z, edit)  # (N, C, h, w)
        amount = strength[:, None, None, None]  # (N, 1, 1, 1)
        # One pass of the decoder for both: its quantized ranges are then the same, and rounding treats both alike.
        both = torch.cat([z, z + amount.to(self.dtype) * delta])  # (2N, C, h, w)
        decoded = self.vae.decode(both / self.scale + self.shift).sample  # (2N, 3, H, W)
        plain = decoded[: image.shape[0]].float()  # (N, 3, H, W)
        edited = decoded[image.shape[0] :].float()  # (N, 3, H, W)
        # The change is computed first: (image + edited) - plain would round away the image's last bits.
        change = change_of_pixels(image, edited, plain, self.cell, strength)  # (N, 3, H, W)
        translated = (image + change).clamp(-1.0, 1.0)
        # Strength 0 is exact by construction: a matrix product may round the rows of a batch differently.
        return torch.where(amount == 0, image, translated)

    def in_float16(self) -> "ExportModule":
        """Return the same with weights in float16."""
        return ExportModule(self.vae, self.student, torch.float16)


def with_shared_weights(module: Module) -> Module:
    """Copy a module without its weights, which both have until one of the two is moved or converted."""
    shared: dict[int, Any] = {id(weight): nn.Parameter(weight.detach(), False) for weight in module.parameters()}
    shared |= {id(buffer): buffer.detach() for buffer in module.buffers()}
    return copy.deepcopy(module, shared)


class _ExactNorm(nn.Module):
    """A normalization in float32 within a float16 network: sums over a whole image overflow float16."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.float())
        return normed.to(x.dtype)


def _keep_norms_exact(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm | nn.LayerNorm):
            setattr(module, name, _ExactNorm(child))
        else:
            _keep_norms_exact(child)


class PixelModule(nn.Module):
    """All that a pixel network's file computes: the network itself, with its normalizations folded.

    It holds a copy on the CPU, in `dtype`; the original does not change. Inputs and output are always float32.

    Args:
        network: trained.
        dtype: of the weights.
    """

    def __init__(self, network: PixelNetwork, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.network = network.folded()
        self.cpu().to(dtype)

    def forward(self, image: Tensor, edit: Tensor, strength: Tensor) -> Tensor:
        """See `PixelNetwork.forward`."""
        translated: Tensor = self.network(image, edit, strength)  # (N, 3, H, W)
        return translated

    def in_float16(self) -> "PixelModule":
        """Return the same with weights in float16."""
        return PixelModule(self.network, torch.float16)


FileModule = ExportModule | PixelModule
"""What a model file is made from."""
