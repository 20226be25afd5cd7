"""Assembles the trained networks into the diffusers folder that is shipped."""

import json
import shutil
from pathlib import Path
from typing import Any

from synth.errors import TrainingError
from synth.files import write_text
from synth.miniature import models
from synth.miniature.stage import averaged_network
from synth.miniature.vae_training import load_vae
from synth.state import read_json, reading


def assemble(out: Path, folder: Path) -> None:
    """Write a folder that `StableDiffusionPipeline.from_pretrained` opens, in float16 where that is harmless.

    Raises:
        TrainingError: if a file of the training is missing or damaged.
    """
    from diffusers import StableDiffusionPipeline

    tokenizer = load_tokenizer(out)
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
    for path in folder.glob("*/config.json"):  # diffusers records where a network was loaded from
        config: dict[str, Any] = read_json(path, dict[str, Any], TrainingError, "assemble the folder again")
        config.pop("_name_or_path", None)
        write_text(path, json.dumps(config, indent=2) + "\n")
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
    write_text(folder / "distillery.json", json.dumps(defaults, indent=2) + "\n")


def load_tokenizer(out: Path) -> Any:
    """Load a training's tokenizer.

    Raises:
        TrainingError: if it is missing or damaged.
    """
    from transformers import CLIPTokenizer

    folder = out / "tokenizer"
    with reading(folder, TrainingError, "the text encoder depends on it: delete it and unet.safetensors"):
        tokenizer: Any = CLIPTokenizer.from_pretrained(folder)
        words = [tokenizer.convert_tokens_to_ids(word) for word in (models.START, models.END)]
        if len(tokenizer) < 3 or tokenizer.model_max_length != models.MAX_TOKENS or None in words:
            raise ValueError("it is not a miniature's")
    return tokenizer
