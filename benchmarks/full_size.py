"""Memory and time at the true size of Stable Diffusion 1.5: its shapes at 512 px, with random weights.

    python benchmarks/full_size.py full checkpointed lora compact zero-shot [--batch-size 2] [--steps 2] [--edits 1]

    full          training the U-Net student, all 860 million weights
    checkpointed  the same with gradient checkpointing
    lora          LoRA of rank 16, with gradient checkpointing
    compact       training the compact student
    zero-shot     iterations of DDS on as many images as --batch-size says

Each has a process to itself, so that its peak is its own. On a CPU the peak is the process's, in float32; on a GPU it
is what torch held there. Random weights cost what trained ones do and show nothing.
"""

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from distill.optimization import optimize
from distill.settings import EditSettings, TrainingSettings
from distill.train import train
from synth.cpu import keep_freed_memory
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.photographs import import_photos
from synth.dataset.prompts import PhotoTexts
from synth.memory import peak_memory_bytes
from synth.miniature.score import WEIGHTS
from synth.settings import PhotoSettings, PhotoTextSettings
from synth.teacher.hub import TeacherDefaults
from synth.teacher.teacher import Teacher

_SIDE = 512
_TRAININGS: dict[str, dict[str, Any]] = {
    "full": {},
    "checkpointed": {"gradient_checkpointing": True},
    "lora": {"gradient_checkpointing": True, "lora_rank": 16},
    "compact": {"student": "compact"},
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=[*_TRAININGS, "zero-shot"])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="the first one warms up and is not timed")
    parser.add_argument("--edits", type=int, default=1, help="of each image, in training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.steps < 2:
        parser.error("--steps: the first one is not timed, so take two or more")
    for what in args.what:
        with get_context("spawn").Pool(1) as process:
            seconds, gib = process.apply(_measure, (what, args.batch_size, args.steps, args.edits, args.device))
        print(f"{what:13} {gib:6.1f} GiB at most, {seconds:8.2f} s a step", flush=True)


def _measure(what: str, batch_size: int, steps: int, num_edits: int, device: str) -> tuple[float, float]:
    """Seconds a step, and the peak of memory in GiB."""
    keep_freed_memory()
    teacher = full_size_teacher(device)
    if what == "zero-shot":
        times = _edit(teacher, batch_size, steps)
    else:
        settings = TrainingSettings(
            batch_size=batch_size, steps=steps + 1, checkpoint_every=10**6, **_TRAININGS[what]
        )
        times = _train(teacher, settings, steps, num_edits)
    return statistics.median(times), peak_memory_bytes(device) / 2**30


def _train(teacher: Teacher, settings: TrainingSettings, steps: int, num_edits: int) -> list[float]:
    edits = {f"edit {number}": {"target": f"a red sofa {number}"} for number in range(num_edits)}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "noise"
        source.mkdir()
        rng = np.random.default_rng(0)
        for number in range(settings.batch_size):
            Image.fromarray(rng.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)).save(source / f"{number}.png")
        import_photos(str(source), PhotoSettings(image_size=_SIDE), Path(scratch) / "set", progress=False)
        texts = PhotoTexts(PhotoTextSettings(source="a grey sofa"))
        painted = ImageDataset(Path(scratch) / "set")
        records = train(teacher, painted, texts, edits, settings, Path(scratch) / "run", progress=False)
        return [next(records).seconds for _ in range(steps)][1:]  # one step remains, which would write a checkpoint


def _edit(teacher: Teacher, num: int, steps: int) -> list[float]:
    z_hat = torch.randn((num, 4, _SIDE // 8, _SIDE // 8)).to(teacher.device)
    y, y_hat = teacher.encode_prompt(["a red sofa"] * num), teacher.encode_prompt(["a grey sofa"] * num)
    marks = [time.perf_counter()]

    def mark(_: object) -> None:
        if teacher.device.type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    optimize(teacher, z_hat, y, y_hat, EditSettings(iterations=steps), mark)
    return [after - before for before, after in pairwise(marks)][1:]


def full_size_teacher(device: str) -> Teacher:
    """Stable Diffusion 1.5's networks, but for the text encoder's vocabulary."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", model_max_length=77)
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=_SIDE // 8, cross_attention_dim=768)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=_SIDE,
        )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    if device == "cuda":
        pipeline.to(torch.bfloat16)  # as Teacher.load does
    defaults = TeacherDefaults(image_size=_SIDE, num_inference_steps=50, guidance_scale=7.5)
    return Teacher(pipeline, "random weights", "random weights", defaults)


if __name__ == "__main__":
    main()
