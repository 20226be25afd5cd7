"""Trains the miniature teacher on drawn scenes and writes it as a diffusers folder.

    python -m synth.miniature.train draw   --out work --num-scenes 120000
    python -m synth.miniature.train vae    --out work --minutes 8
    python -m synth.miniature.train encode --out work
    python -m synth.miniature.train unet   --out work --minutes 18
    python -m synth.miniature.train decoder --out work --minutes 4
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
from torch import Tensor, nn

from synth.cpu import keep_freed_memory
from synth.miniature import models
from synth.miniature.card import write_card
from synth.miniature.stage import Run, averaged_network, generator, layout, processes, rank
from synth.miniature.vae_training import encode, load_vae, train_decoder, train_vae
from synth.world.captions import captions
from synth.world.scenes import render, sample_scene

CAPTIONS_PER_SCENE = 4
SKETCH = 4  # side of what the text encoder alone must draw


# Drawing


def draw(out: Path, num_scenes: int) -> None:
    """`images.npy`, uint8 (N, 128, 128, 3), and `captions.json`, scenes 0 to N - 1 of the train split."""
    if (out / "captions.json").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(out / "images.npy", "w+", np.uint8, (num_scenes, models.SIZE, models.SIZE, 3))
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
    images = np.stack([render(scene, models.SIZE).image for scene in scenes])
    return images, [captions(scene, CAPTIONS_PER_SCENE) for scene in scenes]


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


# The factor readers


def train_readers(args: argparse.Namespace) -> None:
    """The strict readers, once the VAE is there: they must also read what it makes of a picture."""
    from synth.miniature.reader_training import reader_images, train_reader
    from synth.world.readers import FactorNetwork

    device = torch.device(args.device)
    images, labels = reader_images(args.out, args.num_pairs, device)
    networks = nn.ModuleDict({"reader": FactorNetwork()})
    run = Run("reader", args.out, networks, args.minutes, args.stop_after, args.learning_rate, device)
    train_reader(run, images, labels, args.batch_size, args.seed)


# The folder


def assemble(out: Path, folder: Path) -> None:
    """A diffusers folder that `StableDiffusionPipeline.from_pretrained` opens, in float16 where that is harmless."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    unet = averaged_network(out, "unet", "unet", models.build_unet())
    # The text encoder stays in float32: transformers loads a checkpoint in its own precision, diffusers in float32.
    text_encoder = averaged_network(out, "unet", "text_encoder", models.build_text_encoder(tokenizer))
    pipeline = StableDiffusionPipeline(
        vae=load_vae(out).half(),
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
        "image_size": models.SIZE,
        "num_inference_steps": 8,
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
    parser.add_argument("stage", choices=("draw", "vae", "encode", "unet", "decoder", "reader", "assemble", "card"))
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
    elif args.stage == "decoder":
        train_decoder(args)
    elif args.stage == "reader":
        train_readers(args)
    elif args.stage == "assemble":
        assemble(args.out, args.folder or args.out / "pipeline")
    else:
        write_card(args.folder or args.out / "pipeline", args.out)


if __name__ == "__main__":
    main()
