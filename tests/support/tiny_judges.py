"""CLIP and DINO in small: random networks of the very classes, as folders."""

from pathlib import Path

import torch
from tiny_clip import tiny_clip_config, tiny_tokenizer
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, ViTConfig, ViTModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil


def save_tiny_clip(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    text = tiny_clip_config(tokenizer)
    CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": 32}
    CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_tiny_dino(folder: Path) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=32
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
