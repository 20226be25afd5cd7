"""Trains the miniature's VAE: first all of it, and once a U-Net depends on its latents, only the decoder."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from synth.errors import TrainingError
from synth.files import whole_file
from synth.images.encoding import save_grid
from synth.miniature import models
from synth.miniature.stage import TrainingStage, averaged_network, below, generator, layout
from synth.pixels import to_float, to_uint8
from synth.psnr import psnr_from_mse
from synth.state import read_array, read_network, read_tensors, reading
from synth.world.scenes import render, sample_scene

DECODER_NOISE = 0.05
"""Standard deviation of the noise on the decoder's training latents: a U-Net or an edit never makes quite the latents
that an encoder does."""
_ENCODE_AGAIN = "delete latents.safetensors, and run the stage encode again"


def train_vae(args: argparse.Namespace) -> None:
    """Train the VAE to reconstruct (L1, squared error, edges), with a weak pull towards a unit Gaussian."""
    device = torch.device(args.device)
    images = load_images(args.out).to(device)
    vae = models.build_vae()
    networks = nn.ModuleDict({"vae": vae})
    training = TrainingStage(
        "vae", args.out, networks, args.minutes, args.stop_after, args.learning_rate, device, init=args.init
    )
    forward: Any = torch.compile(_VaeLoss(vae)) if args.compile else _VaeLoss(vae)

    def loss_of(step: int) -> Tensor:
        draws = generator(device, args.seed, "vae", step)
        _, batch = _batch(images, args.batch_size, draws, device)
        noise = torch.randn(_latent_shape(args.batch_size), generator=draws, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            loss: Tensor = forward(batch, noise)
        return loss

    def sample() -> None:
        measure(training.averaged()["vae"], args.out, device)
        training.restore()

    training.train(loss_of, sample)


def train_decoder(args: argparse.Namespace) -> None:
    """Train only the decoder, on unchanged latents, so that a U-Net trained on them stays valid.

    Raises:
        TrainingError: if there are no latents yet, or a file is damaged.
    """
    device = torch.device(args.device)
    if not (args.out / "latents.safetensors").exists():
        raise TrainingError(f"{args.out} has no latents yet: run the stages vae and encode first")
    latents = encode(args.out, device)
    images = load_images(args.out).to(device)
    if len(images) != len(latents):
        raise TrainingError(f"{args.out} has {len(images)} images and {len(latents)} latents: {_ENCODE_AGAIN}")
    vae = load_vae(args.out)
    networks = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    networks.requires_grad_(True).train()
    training = TrainingStage("decoder", args.out, networks, args.minutes, args.stop_after, args.learning_rate, device)

    def loss_of(step: int) -> Tensor:
        draws = generator(device, args.seed, "decoder", step)
        chosen, x = _batch(images, args.batch_size, draws, device)
        noise = torch.randn(_latent_shape(args.batch_size), generator=draws, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            y = networks["decoder"](networks["post_quant_conv"](latents[chosen] + DECODER_NOISE * noise)).float()
        # The decoder is judged by its mean PSNR, so that joins the VAE's loss, up to a factor.
        log_error = ((y - x) ** 2).mean(dim=(1, 2, 3)).log().mean()
        loss: Tensor = _reconstruction_loss(y, x) + 0.02 * log_error
        return loss

    def sample() -> None:
        training.averaged()
        measure(vae.to(device).eval(), args.out, device)
        training.restore()

    training.train(loss_of, sample)


def load_vae(out: Path) -> Any:
    """Load the encoder that made a training's latents and the best decoder for them, frozen.

    Raises:
        TrainingError: if a file is missing or damaged.
    """
    from diffusers import AutoencoderKL

    vae: Any = read_network(AutoencoderKL, out / "vae", TrainingError, _ENCODE_AGAIN)
    decoder = out / "decoder.safetensors"
    if decoder.exists():
        remedy = "delete it, and run the stage decoder again"
        tensors, _ = read_tensors(decoder, TrainingError, remedy)
        with reading(decoder, TrainingError, remedy):
            for name, module in (("decoder", vae.decoder), ("post_quant_conv", vae.post_quant_conv)):
                module.load_state_dict(below(f"average.{name}.", tensors))
    return vae.eval().requires_grad_(False)


def load_images(out: Path) -> Tensor:
    """Load the drawn scenes, uint8 (N, 128, 128, 3).

    Raises:
        TrainingError: if their file is missing or damaged.
    """
    shape = (None, models.SIZE, models.SIZE, 3)
    images = read_array(
        out / "images.npy", np.uint8, shape, TrainingError, "delete captions.json, and run draw again"
    )
    return torch.from_numpy(images)


def encode(out: Path, device: torch.device) -> Tensor:
    """Encode all drawn scenes, or load their latents if the present VAE made them.

    Returns:
        bfloat16 (N, 12, 16, 16), the posterior means, on `device`.

    Raises:
        TrainingError: if the VAE was trained further after a U-Net or a decoder was begun on its older latents, or a
            file is missing or damaged.
    """
    path = out / "latents.safetensors"
    vae_step = _vae_step(out / "vae.safetensors", "step")
    if path.exists() and _vae_step(path, "vae_step") != vae_step:
        for later in ("unet.safetensors", "decoder.safetensors"):
            if (out / later).exists():
                raise TrainingError(f"the VAE in {out} was trained further after {later} was begun; remove {later}")
    if not path.exists() or _vae_step(path, "vae_step") != vae_step:
        vae = averaged_network(out, "vae", "vae", models.build_vae()).to(device)
        images = load_images(out)
        whiten(vae, images[:2048], device)
        vae.save_pretrained(out / "vae")
        batches = []
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            for batch in torch.split(images, 64):
                batches.append(vae.encode(to_float(batch.to(device))).latent_dist.mean.to(torch.bfloat16).cpu())
        with whole_file(path) as temporary:
            save_file({"latents": torch.cat(batches).contiguous()}, temporary, metadata={"vae_step": vae_step})
    tensors, _ = read_tensors(path, TrainingError, _ENCODE_AGAIN, str(device))
    with reading(path, TrainingError, _ENCODE_AGAIN):
        latents = tensors["latents"]
        if latents.dtype != torch.bfloat16 or latents.shape != (len(latents), *_latent_shape(1)[1:]):
            raise ValueError(f"it holds {latents.dtype} {tuple(latents.shape)}")
    return latents


@torch.no_grad()
def whiten(vae: Any, images: Tensor, device: torch.device) -> None:
    """Fold each latent channel's mean and deviation into the 1x1 convolutions on both sides of the latents, exactly,
    so that latents have zero mean and unit variance and the pipeline needs no scale."""
    means = torch.cat([vae.encode(to_float(batch.to(device))).latent_dist.mean for batch in torch.split(images, 64)])
    mu = means.mean(dim=(0, 2, 3)).double()
    sigma = means.std(dim=(0, 2, 3)).double()
    into, back, channels = vae.quant_conv, vae.post_quant_conv, len(mu)
    weight, bias = into.weight.double(), into.bias.double()
    weight[:channels] /= sigma[:, None, None, None]
    bias[:channels] = (bias[:channels] - mu) / sigma
    bias[channels:] -= 2 * sigma.log()  # the log-variance of the scaled channel
    into.weight.copy_(weight)
    into.bias.copy_(bias)
    weight, bias = back.weight.double(), back.bias.double()
    back.bias.copy_(bias + (weight[:, :, 0, 0] * mu).sum(1))
    back.weight.copy_(weight * sigma[None, :, None, None])


def measure(vae: Any, out: Path, device: torch.device, num: int = 512) -> None:
    """Print the mean PSNR on unseen scenes, and save some above their reconstructions as `vae.png`."""
    drawn = np.stack([render(sample_scene("development", index)).image for index in range(num)])
    again = np.concatenate([_roundtrip(vae, part, device) for part in np.split(drawn, num // 32)])
    error = ((drawn.astype(np.float64) - again) / 255) ** 2
    psnr = float(np.mean([psnr_from_mse(value, 1.0) for value in error.mean(axis=(1, 2, 3))]))
    print(f"VAE: {psnr:.2f} dB on {num} unseen scenes", flush=True)
    save_grid([drawn[:12], again[:12], drawn[12:24], again[12:24]], out / "vae.png")


class _VaeLoss(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        posterior = self.vae.encode(x).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        y = self.vae.decode(mean + (0.5 * logvar).exp() * noise).sample.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        loss: Tensor = _reconstruction_loss(y, x) + 2e-4 * kl
        return loss


def _reconstruction_loss(y: Tensor, x: Tensor) -> Tensor:
    edges = (y.diff(dim=-1) - x.diff(dim=-1)).abs().mean() + (y.diff(dim=-2) - x.diff(dim=-2)).abs().mean()
    loss: Tensor = F.l1_loss(y, x) + 2 * F.mse_loss(y, x) + 0.5 * edges
    return loss


def _batch(images: Tensor, size: int, draws: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw indices, int64 (N,), and return them with their images, float (N, 3, H, W)."""
    chosen = torch.randint(len(images), (size,), generator=draws, device=device)
    return chosen, to_float(images[chosen]).contiguous(memory_format=layout(device))


def _latent_shape(num: int) -> tuple[int, int, int, int]:
    return num, models.LATENT_CHANNELS, models.SIZE // 8, models.SIZE // 8


@torch.no_grad()
def _roundtrip(vae: Any, images: NDArray[np.uint8], device: torch.device) -> NDArray[np.uint8]:
    x = to_float(torch.from_numpy(images).to(device))
    return to_uint8(vae.decode(vae.encode(x).latent_dist.mode()).sample)


def _vae_step(path: Path, key: str) -> str:
    """Read the VAE's step from the metadata of a checkpoint or a latents file; "" if it has none.

    Raises:
        TrainingError: if the file is missing or damaged.
    """
    remedy = "run the stage vae first" if path.stem == "vae" else _ENCODE_AGAIN
    with reading(path, TrainingError, remedy), safe_open(path, "pt") as file:
        return str((file.metadata() or {}).get(key, ""))
