"""Trains the miniature teacher on drawn scenes and writes it as a diffusers folder.

    python -m synth.miniature.train draw   --out work --num-scenes 120000
    python -m synth.miniature.train vae    --out work --minutes 8
    python -m synth.miniature.train encode --out work
    python -m synth.miniature.train unet   --out work --minutes 18
    python -m synth.miniature.train reader --out work --minutes 2
    python -m synth.miniature.train assemble --out work --folder synth/miniature/weights
    python -m synth.miniature.train card   --out work --folder synth/miniature/weights

Each stage keeps a checkpoint in `--out` (safetensors and JSON) and goes on from it when called again; the learning
rate follows the time trained so far against `--minutes`, so that a stage may be cut into several calls
(`--stop-after`). On a GPU all of it takes half an hour; on two CPU cores, days: give the hours you have, and train
`vae` and `unet` by one process a core, which is up to 1.4 times faster than one process of two threads:

    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 -m synth.miniature.train unet --out work --batch-size 16
"""

import argparse
import json
import math
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from synth.cpu import keep_freed_memory
from synth.errors import TrainingError
from synth.miniature import models
from synth.miniature.captions import captions
from synth.miniature.card import write_card
from synth.miniature.stage import Run, averaged_network, generator, layout, processes, rank
from synth.miniature.world import render, sample_scene
from synth.pixels import save_grid, to_float, to_uint8

SIZE = 128
CAPTIONS_PER_SCENE = 4
SKETCH = 4  # side of what the text encoder alone must draw


# Drawing


def draw(out: Path, num_scenes: int) -> None:
    """`images.npy`, uint8 (N, 128, 128, 3), and `captions.json`, scenes 0 to N - 1 of the train split."""
    if (out / "captions.json").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(out / "images.npy", "w+", np.uint8, (num_scenes, SIZE, SIZE, 3))
    texts: list[list[str]] = []
    with ProcessPoolExecutor() as pool:
        spans = [(start, min(start + 500, num_scenes)) for start in range(0, num_scenes, 500)]
        for (start, stop), (drawn, said) in zip(spans, pool.map(_draw_span, spans), strict=True):
            images[start:stop] = drawn
            texts.extend(said)
    images.flush()
    (out / "captions.json").write_text(json.dumps(texts))
    print(f"drew {num_scenes} scenes")


def _draw_span(span: tuple[int, int]) -> tuple[NDArray[np.uint8], list[list[str]]]:
    scenes = [sample_scene("train", index) for index in range(*span)]
    images = np.stack([render(scene, SIZE).image for scene in scenes])
    return images, [captions(scene, CAPTIONS_PER_SCENE) for scene in scenes]


def unseen(num: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Scenes of the development split with a caption each."""
    scenes = [sample_scene("development", index) for index in range(num)]
    return np.stack([render(scene, SIZE).image for scene in scenes]), [captions(scene, 1)[0] for scene in scenes]


# The VAE


def train_vae(args: argparse.Namespace) -> None:
    """Reconstruction with L1, squared error and edges; a weak pull towards a unit Gaussian."""
    device = torch.device(args.device)
    images = torch.from_numpy(np.load(args.out / "images.npy")).to(device)
    vae = models.build_vae()
    run = Run(
        "vae",
        args.out,
        nn.ModuleDict({"vae": vae}),
        args.minutes,
        args.stop_after,
        args.learning_rate,
        device,
        init=args.init,
    )
    forward: Any = torch.compile(_VaeLoss(vae)) if args.compile else _VaeLoss(vae)

    def loss_of(step: int) -> Tensor:
        draws = generator(device, args.seed, "vae", step)
        chosen = torch.randint(len(images), (args.batch_size,), generator=draws, device=device)
        batch = to_float(images[chosen]).contiguous(memory_format=layout(device))
        noise = torch.randn(
            (args.batch_size, models.LATENT_CHANNELS, SIZE // 8, SIZE // 8),
            generator=draws,
            device=device,
        )
        with torch.autocast(device.type, torch.bfloat16):
            loss: Tensor = forward(batch, noise)
        return loss

    def sample() -> None:
        vae = run.averaged()["vae"]
        drawn, _ = unseen(512)
        again = np.concatenate([_roundtrip(vae, part, device) for part in np.split(drawn, 16)])
        error = ((drawn.astype(np.float64) - again) / 255) ** 2
        psnr = float(np.mean(-10 * np.log10(error.mean(axis=(1, 2, 3)))))
        print(f"VAE: {psnr:.2f} dB on 512 unseen scenes", flush=True)
        save_grid([drawn[:12], again[:12], drawn[12:24], again[12:24]], args.out / "vae.png")
        run.restore()

    run.train(loss_of, sample)


class _VaeLoss(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        posterior = self.vae.encode(x).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        y = self.vae.decode(mean + (0.5 * logvar).exp() * noise).sample.float()
        edges = (y.diff(dim=-1) - x.diff(dim=-1)).abs().mean() + (y.diff(dim=-2) - x.diff(dim=-2)).abs().mean()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        loss: Tensor = F.l1_loss(y, x) + 2 * F.mse_loss(y, x) + 0.5 * edges + 2e-4 * kl
        return loss


@torch.no_grad()
def _roundtrip(vae: Any, images: NDArray[np.uint8], device: torch.device) -> NDArray[np.uint8]:
    x = to_float(torch.from_numpy(images).to(device))
    return to_uint8(vae.decode(vae.encode(x).latent_dist.mode()).sample)


@torch.no_grad()
def whiten(vae: Any, images: Tensor, device: torch.device) -> None:
    """Fold each latent channel's mean and deviation into the 1x1 convolutions on both sides of the latents, exactly,
    so that latents have zero mean and unit variance and the pipeline needs no scale."""
    means = torch.cat([vae.encode(to_float(part.to(device))).latent_dist.mean for part in torch.split(images, 64)])
    mu, sigma = means.mean(dim=(0, 2, 3)).double(), means.std(dim=(0, 2, 3)).double()
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


# The U-Net and the text encoder


def train_unet(args: argparse.Namespace) -> None:
    """Noise prediction on the VAE's latents, the text encoder along with the U-Net."""
    device = torch.device(args.device)
    texts = json.loads((args.out / "captions.json").read_text())
    flat = [caption for several in texts for caption in several]
    tokenizer = _tokenizer(args.out, flat, args.init)
    latents = encode(args.out, device)
    tokens = models.tokenize(tokenizer, flat).to(device, torch.int32).view(len(texts), CAPTIONS_PER_SCENE, -1)
    null = models.tokenize(tokenizer, [""]).to(device)
    networks = nn.ModuleDict(
        {
            "unet": models.build_unet(),
            "text_encoder": models.build_text_encoder(tokenizer),
            "sketch": nn.Linear(models.TEXT_DIM, models.LATENT_CHANNELS * SKETCH**2),  # of training alone
        }
    )
    run = Run(
        "unet",
        args.out,
        networks,
        args.minutes,
        args.stop_after,
        args.learning_rate,
        device,
        init=args.init,
    )
    unet = networks["unet"]
    predict: Any = torch.compile(unet) if args.compile else unet
    alphas: Tensor = models.build_scheduler().alphas_cumprod.to(device)

    def loss_of(step: int) -> Tensor:
        draws = generator(device, args.seed, "unet", step)
        size = args.batch_size
        chosen = torch.randint(len(latents), (size,), generator=draws, device=device)
        which = torch.randint(CAPTIONS_PER_SCENE, (size,), generator=draws, device=device)
        ids = tokens[chosen, which].long()
        dropped = torch.rand((size,), generator=draws, device=device) < 0.1
        ids = torch.where(dropped[:, None], null, ids)
        x0 = latents[chosen].float()
        noise = torch.randn(x0.shape, generator=draws, device=device)
        t = torch.randint(1000, (size,), generator=draws, device=device)
        alpha_bar = alphas[t][:, None, None, None]
        xt = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
        with torch.autocast(device.type, torch.bfloat16):
            context = networks["text_encoder"](ids).last_hidden_state
            eps = predict(xt.contiguous(memory_format=layout(device)), t, context).sample
        # As weights of the error in x0: Min-SNR-5 (Hang et al. 2023, arXiv 2303.09556), so that what is learned first
        # is what there is to see, and never less than 0.2, so that the text is listened to where there is only noise.
        snr = alpha_bar / (1 - alpha_bar)
        weight = snr.clamp(0.2, 5) / snr
        loss: Tensor = (weight * (eps.float() - noise) ** 2).mean()
        # The text encoder alone is also asked for the picture in 4 x 4, from the states behind the text's end. By the
        # noise alone it learns slowly what belongs together, "pink" and "walls", and half of a caption is unheard.
        behind = (ids == tokenizer.eos_token_id).float()[..., None]  # (N, T, 1)
        pooled = (context.float() * behind).sum(dim=1) / behind.sum(dim=1)  # (N, D)
        sketch = networks["sketch"](pooled).view(size, -1, SKETCH, SKETCH)
        loss = loss + 0.5 * F.mse_loss(sketch, F.adaptive_avg_pool2d(x0, SKETCH))
        return loss

    def sample() -> None:
        run.save()
        folder = args.out / "pipeline"
        assemble(args.out, folder)
        from synth.miniature.score import score

        result = score(folder, args.out, num=args.num_samples, device=args.device)
        with (args.out / "log.jsonl").open("a") as log:
            log.write(json.dumps({"stage": "samples", "minutes": round(run.minutes_done, 2), **result}) + "\n")

    run.train(loss_of, sample, args.sample_every)


def _tokenizer(out: Path, texts: list[str], init: Path | None) -> Any:
    """The run's tokenizer, made once: the text encoder's rows belong to its ids."""
    from transformers import CLIPTokenizer

    if init is not None and not (out / "tokenizer").exists():
        CLIPTokenizer.from_pretrained(init / "tokenizer").save_pretrained(out / "tokenizer")
    if (out / "tokenizer" / "tokenizer.json").exists():
        return CLIPTokenizer.from_pretrained(out / "tokenizer")
    return models.build_tokenizer(texts, out / "tokenizer")


def encode(out: Path, device: torch.device) -> Tensor:
    """bfloat16 (N, 12, 16, 16): the posterior means of all drawn scenes, on the device; kept on disk with the run."""
    path = out / "latents.safetensors"
    vae_step = _vae_step(out / "vae.safetensors", "step")
    if path.exists() and _vae_step(path, "vae_step") != vae_step and (out / "unet.safetensors").exists():
        raise TrainingError(f"the VAE in {out} was trained on after its U-Net began; remove unet.safetensors")
    if not path.exists() or _vae_step(path, "vae_step") != vae_step:
        vae = averaged_network(out, "vae", "vae", models.build_vae()).to(device)
        images = torch.from_numpy(np.load(out / "images.npy"))
        whiten(vae, images[:2048], device)
        vae.save_pretrained(out / "vae")
        parts = []
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            for part in torch.split(images, 64):
                parts.append(vae.encode(to_float(part.to(device))).latent_dist.mean.to(torch.bfloat16).cpu())
        part_file = path.with_suffix(".part")
        save_file({"latents": torch.cat(parts).contiguous()}, part_file, metadata={"vae_step": vae_step})
        os.replace(part_file, path)
    return load_file(path, device=str(device))["latents"]


def _vae_step(path: Path, key: str) -> str:
    """How long the VAE was trained, as a checkpoint or a latents file says; "" if it does not."""
    with safe_open(path, "pt") as file:
        return str((file.metadata() or {}).get(key, ""))


# The factor readers


def train_readers(args: argparse.Namespace) -> None:
    """The strict readers, once the VAE is there: they must also read what it makes of a picture."""
    from synth.miniature.reader_training import reader_pictures, train_reader
    from synth.miniature.readers import FactorNetwork

    device = torch.device(args.device)
    images, labels = reader_pictures(args.out, args.num_pairs, device)
    networks = nn.ModuleDict({"reader": FactorNetwork()})
    run = Run("reader", args.out, networks, args.minutes, args.stop_after, args.learning_rate, device)
    train_reader(run, images, labels, args.batch_size, args.seed)


# The folder


def assemble(out: Path, folder: Path) -> None:
    """A diffusers folder that `StableDiffusionPipeline.from_pretrained` opens, in float16 where that is harmless."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    unet = averaged_network(out, "unet", "unet", models.build_unet())
    # The text encoder stays in float32: transformers loads a checkpoint in its own precision, diffusers in float32.
    text_encoder = averaged_network(out, "unet", "text_encoder", models.build_text_encoder(tokenizer))
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(out / "vae").half(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=models.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, max_shard_size="14MB")
    for path in folder.glob("*/config.json"):  # diffusers notes down where a network was loaded from
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")
    defaults = {
        "image_size": SIZE,
        "num_inference_steps": 12,
        "guidance_scale": 4.0,
        "edit_guidance_scale": 3.0,
        "edit_learning_rate": 2.0,
        "licence": "apache-2.0",
    }
    if (out / "reader" / "reader.safetensors").exists():
        shutil.copytree(out / "reader", folder / "reader", dirs_exist_ok=True)
    (folder / "distillery.json").write_text(json.dumps(defaults, indent=2) + "\n")


def main() -> None:
    """The command line; see the module's own text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("draw", "vae", "encode", "unet", "reader", "assemble", "card"))
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, logs and grids")
    parser.add_argument("--folder", type=Path, help="assemble, card: the diffusers folder")
    parser.add_argument("--init", type=Path, help="vae, unet: start from this diffusers folder's weights")
    parser.add_argument("--num-scenes", type=int, default=120_000)
    parser.add_argument("--num-pairs", type=int, default=40_000, help="reader: scenes and as many counterfactuals")
    parser.add_argument("--minutes", type=float, default=10.0, help="the whole length of the stage")
    parser.add_argument("--stop-after", type=float, default=math.inf, help="minutes of this call")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--num-samples", type=int, default=200)
    parser.add_argument("--sample-every", type=float, default=math.inf, help="unet: minutes between two scores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    args.out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    torch.manual_seed(args.seed)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group("gloo")
    settings = {key: value for key, value in vars(args).items() if value != parser.get_default(key)}
    if rank() == 0:
        with (args.out / "log.jsonl").open("a") as log:
            log.write(json.dumps({"call": settings | {"processes": processes()}}, default=str) + "\n")
    if args.stage == "draw":
        draw(args.out, args.num_scenes)
    elif args.stage == "vae":
        train_vae(args)
    elif args.stage == "encode":
        encode(args.out, torch.device(args.device))
    elif args.stage == "unet":
        train_unet(args)
    elif args.stage == "reader":
        train_readers(args)
    elif args.stage == "assemble":
        assemble(args.out, args.folder or args.out / "pipeline")
    else:
        write_card(args.folder or args.out / "pipeline", args.out)


if __name__ == "__main__":
    main()
