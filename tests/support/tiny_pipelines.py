"""Pipelines of Stable Diffusion's own classes in small, made on the spot with random weights."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny_clip import WORDS, tiny_clip_config, tiny_tokenizer
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def save_sd(folder: Path) -> Path:
    """Stable Diffusion 1.5 in small: 64 x 64 images, 4 x 8 x 8 latents, PNDM, noise prediction, random weights."""
    return _save(folder, PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **SD_SCHEDULE))


def save_v(folder: Path) -> Path:
    """Stable Diffusion 2.1 in small: the same networks under a v-prediction schedule."""
    scheduler = DDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **SD_SCHEDULE
    )
    return _save(folder, scheduler)


def save_light(sd: Path, folder: Path) -> Path:
    """The pipeline in `sd` with the lightest of VAEs."""
    StableDiffusionPipeline.from_pretrained(sd, vae=light_vae()).save_pretrained(folder)
    return folder


def _save(folder: Path, scheduler: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer()
        vae = tiny_vae(latent_channels=4, scaling_factor=0.18215)
        unet = UNet2DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=2,
        )
        text_encoder = CLIPTextModel(tiny_clip_config(tokenizer))
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def save_xl(folder: Path) -> Path:
    """Stable Diffusion XL in small: two text encoders, a pooled text and sizes; 64 x 64 images, 4 x 8 x 8 latents."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer()
        pipeline = StableDiffusionXLPipeline(
            vae=tiny_vae(latent_channels=4, scaling_factor=0.13025),
            text_encoder=CLIPTextModel(tiny_clip_config(tokenizer)),
            text_encoder_2=CLIPTextModelWithProjection(tiny_clip_config(tokenizer)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=8,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=(16, 32),
                layers_per_block=1,
                norm_num_groups=4,
                cross_attention_dim=32,
                attention_head_dim=2,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 16,
            ),
            scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **SD_SCHEDULE),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def save_3(folder: Path) -> Path:
    """Stable Diffusion 3 in small: a transformer under flow matching, three text encoders, latents with a shift."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer()
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"\u2581{word}", -3.0) for word in WORDS.split())]
        t5_tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0)
        pipeline = StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(
                sample_size=8,
                patch_size=2,
                in_channels=6,
                out_channels=6,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=32,
                caption_projection_dim=16,
                pooled_projection_dim=32,
                pos_embed_max_size=16,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny_vae(
                latent_channels=6,
                scaling_factor=1.5305,
                shift_factor=0.0609,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=CLIPTextModelWithProjection(tiny_clip_config(tokenizer)),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModelWithProjection(tiny_clip_config(tokenizer)),
            tokenizer_2=tokenizer,
            text_encoder_3=T5EncoderModel(
                T5Config(vocab_size=len(t5_tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
            ),
            tokenizer_3=t5_tokenizer,
        )
    pipeline.save_pretrained(folder)
    return folder


def tiny_vae(**config: Any) -> AutoencoderKL:
    """64 x 64 images to 8 x 8 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        sample_size=64,
        **config,
    )


def light_vae(latent_channels: int = 4) -> AutoencoderTiny:
    """A VAE of a few convolutions, 64 x 64 images to 8 x 8 latents; always the same weights.

    A model file is traced node by node, and a teacher's VAE has most of the nodes.
    """
    levels = 4
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderTiny(
            latent_channels=latent_channels,
            encoder_block_out_channels=(8,) * levels,
            decoder_block_out_channels=(8,) * levels,
            num_encoder_blocks=(0,) * levels,
            num_decoder_blocks=(0,) * levels,
        )
    # Random ones are so faint that images would be rejected, and edits undone; and half of all pixels would be black.
    last = vae.decoder.layers[-1]
    last.weight.data.mul_(15)
    last.bias.data.fill_(0.5)
    return vae
