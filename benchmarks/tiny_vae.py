"""Quality and time of a small VAE in a model file: one for the miniature's latents, trained here.

    python benchmarks/tiny_vae.py runs/sofas --out tiny-vae [--steps 1500]
    distillery export runs/sofas --vae tiny-vae
    distillery evaluate student runs/sofas           # the metrics of that file

The Hub has such VAEs for Stable Diffusion (madebyollin/taesd), but none for the miniature. Here an AutoencoderTiny
learns on the run's painted images: its encoder to give the latents that the teacher's VAE gives, its decoder to give
the images back. The script prints the PSNR of both VAEs on drawn test scenes, and the ratio of their times.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from processes import one_line
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss
from tqdm import tqdm
from turns import medians

from distill.evaluation.examples import drawn_examples
from flows.run.folder import RunFolder
from flows.shared_teacher import open_teacher
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.latents import encode
from synth.pixels import to_float
from synth.psnr import psnr_from_mse

_WIDTH = 32
_BATCH = 8
_LEARNING_RATE = 1e-3
_DETAIL = 0.5  # weight of the error of differences between neighbours: the pixels' own error allows blur


@one_line
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the VAE to")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = RunFolder(args.run)
    recipe = run.load_recipe()
    teacher = open_teacher(recipe.teacher)
    painted = ImageDataset(run.dataset)
    latents = encode(teacher, painted, args.run / "latents")
    levels = len(teacher.vae.config.block_out_channels)
    torch.manual_seed(0)
    vae = AutoencoderTiny(
        latent_channels=teacher.latent_channels,
        encoder_block_out_channels=(_WIDTH,) * levels,
        decoder_block_out_channels=(_WIDTH,) * levels,
        num_encoder_blocks=(1, *[2] * (levels - 1)),
        num_decoder_blocks=(*[2] * (levels - 1), 1),
    )
    _train(vae, painted, latents, args.steps)
    vae.save_pretrained(args.out)

    edit = next(iter(recipe.edits.values()))
    x = to_float(torch.from_numpy(np.stack([example.image for example in drawn_examples(edit, 32, "test")])))
    autoencoders: dict[str, Callable[[Tensor], Tensor]] = {
        "the teacher's": lambda x: teacher.decode(teacher.encode(x)).cpu(),
        "tiny": lambda x: vae.decode(vae.encode(x).latents).sample,
    }
    with torch.no_grad():
        for name, reconstruct in autoencoders.items():
            print(f"{name:14} {_psnr(reconstruct(x), x):.1f} dB on 32 test scenes")
        seconds = medians({name: partial(each, x[:1]) for name, each in autoencoders.items()}, 20)
    ratio = seconds["tiny"] / seconds["the teacher's"]
    print(f"the tiny one encodes and decodes in {ratio:.2f} of the teacher's time")


def _train(vae: AutoencoderTiny, painted: ImageDataset, latents: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(vae.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(0)
    with tqdm(range(steps), desc="training", unit="step") as bar:
        for _ in bar:
            indices = rng.integers(0, len(painted), _BATCH)
            x = to_float(torch.from_numpy(np.stack([painted.image(int(index)) for index in indices])))  # (N, 3, H, W)
            z = latents[indices]  # (N, C, h, w)
            with torch.autocast("cpu", torch.bfloat16):
                encoded = vae.encode(x).latents.float()
                decoded = vae.decode(z).sample.float()
            pixels = l1_loss(decoded, x) + _DETAIL * sum(l1_loss(decoded.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
            distance = mse_loss(encoded, z)
            optimizer.zero_grad(set_to_none=True)
            (pixels + distance).backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(pixels=f"{pixels.item():.4f}", latents=f"{distance.item():.4f}")


def _psnr(images: Tensor, x: Tensor) -> float:
    errors = (images.clamp(-1, 1) - x).square().mean(dim=(1, 2, 3))  # on a scale of 2 from black to white
    return statistics.fmean(psnr_from_mse(error, peak=2.0) for error in errors.tolist())


if __name__ == "__main__":
    main()
