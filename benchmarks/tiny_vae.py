"""What a small VAE in a model file gives and costs: one for the miniature's latents, trained here.

    python benchmarks/tiny_vae.py runs/sofas --out tiny-vae [--steps 1500]
    distillery export runs/sofas --vae tiny-vae
    distillery evaluate student runs/sofas        # the figures of that file

For Stable Diffusion there are such VAEs on the Hub (madebyollin/taesd); the miniature has none. An AutoencoderTiny
learns on the run's painted images: its encoder to give the latents that the teacher's gives, its decoder to give
the images back. Printed are both on drawn test scenes, and how long both take, as a ratio.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss
from tqdm import tqdm
from turns import medians

from distill.examples import drawn_examples
from flows.run.folder import RunFolder
from flows.shared_teacher import open_teacher
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.latents import encode
from synth.pixels import to_float
from synth.psnr import psnr_from_mse

_WIDTH, _BATCH, _LEARNING_RATE = 32, 8, 1e-3
_DETAIL = 0.5  # weight of the error of differences between neighbours, which a mean of pixels would blur away


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the VAE")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = RunFolder(args.run)
    recipe = run.load_recipe()
    teacher, painted = open_teacher(recipe.teacher), ImageDataset(run.dataset)
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
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "the teacher's": lambda x: teacher.decode(teacher.encode(x)).cpu(),
        "tiny": lambda x: vae.decode(vae.encode(x).latents).sample,
    }
    with torch.no_grad():
        for name, way in ways.items():
            print(f"{name:14} {_psnr(way(x), x):.1f} dB on 32 test scenes")
        seconds = medians({name: partial(way, x[:1]) for name, way in ways.items()}, 20)
    print(f"there and back the tiny one takes {seconds['tiny'] / seconds[next(iter(ways))]:.2f} of the time")


def _train(vae: AutoencoderTiny, painted: ImageDataset, latents: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(vae.parameters(), lr=_LEARNING_RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = np.random.default_rng(0)
    with tqdm(range(steps), desc="training", unit="step") as bar:
        for _ in bar:
            places = order.integers(0, len(painted), _BATCH)
            x = to_float(torch.from_numpy(np.stack([painted.image(int(place)) for place in places])))  # (N, 3, H, W)
            z = latents[places]  # (N, C, h, w)
            with torch.autocast("cpu", torch.bfloat16):
                encoded, decoded = vae.encode(x).latents.float(), vae.decode(z).sample.float()
            pixels = l1_loss(decoded, x) + _DETAIL * sum(l1_loss(decoded.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
            away = mse_loss(encoded, z)
            optimizer.zero_grad(set_to_none=True)
            (pixels + away).backward()
            optimizer.step()
            falling.step()
            bar.set_postfix(pixels=f"{pixels.item():.4f}", latents=f"{away.item():.4f}")


def _psnr(images: Tensor, x: Tensor) -> float:
    errors = (images.clamp(-1, 1) - x).square().mean(dim=(1, 2, 3))  # of 2 from black to white
    return statistics.fmean(psnr_from_mse(error, peak=2.0) for error in errors.tolist())


if __name__ == "__main__":
    main()
