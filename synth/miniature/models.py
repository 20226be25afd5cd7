"""The miniature's networks: classes of diffusers and transformers, with small configs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SIZE = 128  # side of an image, in pixels
LATENT_CHANNELS = 12
MAX_TOKENS = 48  # the longest caption has 41
TEXT_DIM = 192
START, END = "<|startoftext|>", "<|endoftext|>"


def build_vae() -> Any:
    """3 x 128 x 128 -> 12 x 16 x 16. No attention, so that it takes any size that is a multiple of 8."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 96, 160),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
        force_upcast=False,
        mid_block_add_attention=False,
    )


def build_unet() -> Any:
    """The noise predictor. Attention only at 8x8 and 4x4: at 16x16 it would double a call's time on a CPU."""
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(96, 128, 192),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=TEXT_DIM,
        attention_head_dim=(3, 4, 6),  # diffusers takes these as numbers of heads: 32 channels each
    )


def build_text_encoder(tokenizer: Any) -> Any:
    """A CLIP text model, trained along with the U-Net."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_DIM,
            intermediate_size=3 * TEXT_DIM,
            num_hidden_layers=4,
            num_attention_heads=4,
            projection_dim=TEXT_DIM,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> Any:
    """Stable Diffusion's noise schedule with a noisier end, under a solver that needs few steps.

    At Stable Diffusion's own end, beta 0.012, a wall, a sky or a rug can still be made out: a network that is trained
    so never asks the text about them, and paints them as the noise has it that it starts from.
    """
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        algorithm_type="dpmsolver++",
        solver_order=2,
        timestep_spacing="trailing",  # from the very end on
    )


def build_tokenizer(texts: Iterable[str], folder: Path, vocab_size: int = 1200) -> Any:
    """Byte-pair encoding learned from the captions, in CLIP's own format. Every byte is in the vocabulary, so a word
    that no caption has falls into pieces instead of into nothing."""
    bpe = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_words(), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[START, END],
            initial_alphabet=sorted(alphabet),
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))
    merges = [
        tuple(line.split(" "))
        for line in (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
        if line
    ]
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    # The trainer numbers the word-ending letters in another order every time: number everything ourselves. A word
    # may end in any byte.
    letters = sorted(alphabet)
    names = [START, END, *letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    vocab = {name: index for index, name in enumerate(dict.fromkeys(names))}
    tokenizer = CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def tokenize(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """int64 (N, 48), padded."""
    batch = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    ids: torch.Tensor = batch.input_ids
    return ids


def _words() -> Any:
    return Regex(r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""")
