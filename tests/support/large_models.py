"""Teachers of full size of which only the small files are there: for counts on tensors without content."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from synth.teacher.families import FAMILIES
from synth.teacher.hub import ModelFolder

SD_15: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SD_21: dict[str, Any] = {
    **{"sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20]},
    "use_linear_projection": True,
}
XL: dict[str, Any] = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def model(folder: Path, unet: dict[str, Any], pipeline: str = "StableDiffusionPipeline") -> ModelFolder:
    """A teacher of so large a network, of which only the small files are there."""
    vae = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
    }
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text(json.dumps(vae))
    with torch.device("meta"):
        config = {k: v for k, v in UNet2DConditionModel(**unet).config.items() if not k.startswith("_")}
    return ModelFolder("large", folder, FAMILIES[pipeline], {"vae": ["diffusers", "AutoencoderKL"]}, config, None)
