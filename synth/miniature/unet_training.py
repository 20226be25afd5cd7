"""Trains the miniature's U-Net and its text encoder."""

import argparse
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from synth.errors import TrainingError
from synth.miniature import models
from synth.miniature.assembly import assemble, load_tokenizer
from synth.miniature.drawing import CAPTIONS_PER_SCENE
from synth.miniature.score import score
from synth.miniature.stage import TrainingStage, generator, layout
from synth.miniature.vae_training import encode
from synth.state import read_json, reading

_Captions = list[Annotated[list[str], Field(min_length=CAPTIONS_PER_SCENE, max_length=CAPTIONS_PER_SCENE)]]
SKETCH = 4  # side of the image that the text encoder alone must predict, in latent pixels


def train_unet(args: argparse.Namespace) -> None:
    """Train the U-Net, and the text encoder with it, to predict noise on the VAE's latents.

    Raises:
        TrainingError: if a file of an earlier stage, or of this one, is missing or damaged.
    """
    device = torch.device(args.device)
    path = args.out / "captions.json"
    texts: list[list[str]] = read_json(path, _Captions, TrainingError, "delete it, and run the stage draw again")
    flat = [caption for scene_captions in texts for caption in scene_captions]
    tokenizer = _tokenizer(args.out, flat, args.init)
    latents = encode(args.out, device)
    if len(latents) != len(texts):
        raise TrainingError(
            f"{path} is of {len(texts)} scenes and latents.safetensors of {len(latents)}: delete both, and run the "
            "stages draw and encode again"
        )
    tokens = models.tokenize(tokenizer, flat).to(device, torch.int32).view(len(texts), CAPTIONS_PER_SCENE, -1)
    null = models.tokenize(tokenizer, [""]).to(device)
    networks = nn.ModuleDict(
        {
            "unet": models.build_unet(),
            "text_encoder": models.build_text_encoder(tokenizer),
            "sketch": nn.Linear(models.TEXT_DIM, models.LATENT_CHANNELS * SKETCH**2),  # only the training needs it
        }
    )
    training = TrainingStage(
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
        # The batch follows from the step alone: scenes, one of each one's captions, and the null text for a tenth.
        draws = generator(device, args.seed, "unet", step)
        size = args.batch_size
        chosen = torch.randint(len(latents), (size,), generator=draws, device=device)
        which = torch.randint(CAPTIONS_PER_SCENE, (size,), generator=draws, device=device)
        ids = tokens[chosen, which].long()
        dropped = torch.rand((size,), generator=draws, device=device) < 0.1
        ids = torch.where(dropped[:, None], null, ids)
        # The forward process, at a timestep of each sample's own.
        x0 = latents[chosen].float()
        noise = torch.randn(x0.shape, generator=draws, device=device)
        t = torch.randint(1000, (size,), generator=draws, device=device)
        alpha_bar = alphas[t][:, None, None, None]
        xt = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
        with torch.autocast(device.type, torch.bfloat16):
            context = networks["text_encoder"](ids).last_hidden_state
            eps = predict(xt.contiguous(memory_format=layout(device)), t, context).sample
        # Min-SNR-5 (Hang et al. 2023, arXiv 2303.09556), as weights of the error in x0: what can be seen is learned
        # first. A weight of at least 0.2 makes the network heed the text where there is only noise.
        snr = alpha_bar / (1 - alpha_bar)
        weight = snr.clamp(0.2, 5) / snr
        loss: Tensor = (weight * (eps.float() - noise) ** 2).mean()
        # The text encoder must also predict the image in 4 x 4, from its states after the text's end. From the noise
        # loss alone it is slow to learn what belongs together, "pink" and "walls", and ignores half of a caption.
        after_end = (ids == tokenizer.eos_token_id).float()[..., None]  # (N, T, 1)
        pooled = (context.float() * after_end).sum(dim=1) / after_end.sum(dim=1)  # (N, D)
        sketch = networks["sketch"](pooled).view(size, -1, SKETCH, SKETCH)
        loss = loss + 0.5 * F.mse_loss(sketch, F.adaptive_avg_pool2d(x0, SKETCH))
        return loss

    def sample() -> None:
        training.save()
        folder = args.out / "pipeline"
        assemble(args.out, folder)
        result = score(folder, args.out, num=args.num_samples, device=args.device)
        with (args.out / "log.jsonl").open("a") as log:
            log.write(json.dumps({"stage": "samples", "minutes": round(training.minutes_done, 2), **result}) + "\n")

    training.train(loss_of, sample, args.sample_every)


def _tokenizer(out: Path, texts: list[str], init: Path | None) -> Any:
    """Load the training's tokenizer, or make it: once, since the text encoder's rows belong to its ids."""
    from transformers import CLIPTokenizer

    if init is not None and not (out / "tokenizer").exists():
        with reading(init / "tokenizer", TrainingError, "name the folder of a whole miniature"):
            CLIPTokenizer.from_pretrained(init / "tokenizer").save_pretrained(out / "tokenizer")
    if (out / "tokenizer" / "tokenizer.json").exists():
        return load_tokenizer(out)
    return models.build_tokenizer(texts, out / "tokenizer")
