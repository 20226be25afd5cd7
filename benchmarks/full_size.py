"""Memory and time at the true size of Stable Diffusion 1.5: its shapes at 512 px, with random weights.

    python benchmarks/full_size.py train full checkpointed lora compact zero-shot [--batch-size 2] [--steps 2]
    python benchmarks/full_size.py export unet compact compact-tiny [--rounds 3] [--side 512]

train:
    full          the U-Net student, all 860 million weights
    checkpointed  the same with gradient checkpointing
    lora          LoRA of rank 16, with gradient checkpointing
    compact       the compact student
    zero-shot     iterations of DDS on --batch-size images

export:
    unet          the U-Net student between the teacher's own VAE
    compact       the compact student between the same VAE
    compact-tiny  the compact student between a VAE of TAESD's shape

It is exported as ONNX in float32 and float16, which are checked for parity like any other, on the GPU where there is
one. Then one image goes through PyTorch and through ONNX Runtime, in turns: in float32 on a CPU, in float16 on a GPU.
For comparison: img2img-turbo reports 0.11 s per image on an A100.

Each measurement runs in its own process and reports its peak memory: the process's on a CPU, in float32, and torch's
on a GPU. One that fails says why, and leaves the others. Random weights cost the same as trained ones; their images
mean nothing.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from processes import Died, in_own_process
from torch import nn
from turns import Work, medians

from distill.optimization import optimize
from distill.settings import EditSettings, TrainingSettings
from distill.students import CompactStudent, Student, UNetStudent
from distill.training.train import train
from inference.export.modules import ExportModule
from inference.settings import MAIN, Kind, ModelMetadata
from synth.cpu import keep_freed_memory
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.importing import import_photos
from synth.dataset.prompts import PhotoTexts
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
_EDITS = {"red": "a red sofa", "blue": "a blue sofa"}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="training steps and zero-shot iterations")
    training.add_argument("what", nargs="+", choices=[*_TRAININGS, "zero-shot"])
    training.add_argument("--batch-size", type=int, default=2)
    training.add_argument("--steps", type=int, default=2, help="the first one warms up and is not timed")
    training.add_argument("--edits", type=int, default=1, help="edits per image in training (default: 1)")
    training.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    files = commands.add_parser("export", help="model files")
    files.add_argument("what", nargs="+", choices=["unet", "compact", "compact-tiny"])
    files.add_argument("--rounds", type=int, default=3)
    files.add_argument("--side", type=int, default=_SIDE, help="of the images: small ones cost little (default: 512)")
    args = parser.parse_args()
    if args.command == "export":
        measure = partial(measure_file, rounds=args.rounds, side=args.side)
    else:
        if args.steps < 2:
            parser.error("--steps must be 2 or more: the first step is not timed")
        measure = partial(
            _measure_training,
            batch_size=args.batch_size,
            steps=args.steps,
            num_edits=args.edits,
            device=args.device,
        )
    failed = False
    for what in args.what:
        try:
            print(in_own_process(partial(measure, what)), flush=True)
        except Died as error:
            failed = True
            print(f"{what:13} failed: {error}", flush=True)
    sys.exit(1 if failed else 0)


# Training


def _measure_training(what: str, batch_size: int, steps: int, num_edits: int, device: str) -> str:
    keep_freed_memory()
    teacher = full_size_teacher(device)
    if what == "zero-shot":
        times = _edit(teacher, batch_size, steps)
    else:
        settings = TrainingSettings(
            batch_size=batch_size, steps=steps + 1, checkpoint_every=10**6, **_TRAININGS[what]
        )
        times = _train(teacher, settings, steps, num_edits)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else _peak()
    return f"{what:13} {peak:6.1f} GiB peak memory, {statistics.median(times):8.2f} s a step"


def _train(teacher: Teacher, settings: TrainingSettings, steps: int, num_edits: int) -> list[float]:
    edits = {f"edit {number}": {"target": f"a red sofa {number}"} for number in range(num_edits)}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "noise"
        source.mkdir()
        rng = np.random.default_rng(0)
        for number in range(settings.batch_size):
            Image.fromarray(rng.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)).save(source / f"{number}.png")
        import_photos(str(source), PhotoSettings(image_size=_SIDE), Path(scratch) / "dataset", progress=False)
        texts = PhotoTexts(PhotoTextSettings(source="a grey sofa"))
        images = ImageDataset(Path(scratch) / "dataset")
        records = train(teacher, images, texts, edits, settings, Path(scratch) / "run", progress=False)
        # The first step warms up. The last of the settings' steps would write a checkpoint, and is not taken.
        return [next(records).seconds for _ in range(steps)][1:]


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


# Files


def measure_file(what: str, rounds: int, side: int = _SIDE) -> str:
    """Export a student at full size, and time it in PyTorch and in ONNX Runtime."""
    from inference.export.files import export_files  # what is trained above needs no ONNX Runtime

    teacher = full_size_teacher("cpu")
    student: Student
    if what == "unet":
        student = UNetStudent.from_teacher(teacher, _EDITS, TrainingSettings())
        last = student.unet.conv_out
    else:
        student = CompactStudent.from_teacher(teacher, _EDITS, TrainingSettings())
        last = _last_convolution(student)
    # An untrained student changes nothing, and parity would hold whatever the file did.
    nn.init.normal_(last.weight, std=0.02)
    vae = AutoencoderTiny().eval() if what.endswith("tiny") else teacher.vae
    # Random networks are rougher than trained ones, for which the bounds of parity are made.
    _last_convolution(vae.decoder).weight.data.mul_(0.1)
    del teacher  # in a run on a GPU the card has it

    cuda = torch.cuda.is_available()
    half = Kind("onnx", "float16")
    metadata = ModelMetadata(
        name=what,
        edits=student.edits,
        training_size=side,
        teacher="random weights",
        licence="none",
        data_fingerprint="none",
        validated_on="nothing",
    )
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Path(folder) / kind.precision / kind.file_name for kind in (MAIN, half)}
        started = time.perf_counter()
        found = []
        for kind, report in export_files(vae, student, metadata, files, images):
            num_bytes = sum(file.stat().st_size for file in files[kind].parent.iterdir())
            found.append(
                f"{kind.precision} {num_bytes / 2**20:.0f} MiB, within {report.max_difference:.1e} of PyTorch, "
                f"{report.quantile:.1e} in 99.9 % of the pixels, {report.min_psnr_db:.1f} dB, "
                f"after {time.perf_counter() - started:.0f} s and {_peak():.1f} GiB peak memory"
            )
            print(f"{what:13} {found[-1]}", file=sys.stderr, flush=True)
        seconds = medians(_works(ExportModule(vae, student), files[half if cuda else MAIN], cuda, side), rounds)
    return (
        f"{what:13} {seconds['PyTorch']:.2f} s an image in PyTorch, {seconds['ONNX Runtime']:.2f} in ONNX Runtime; "
        f"{'; '.join(found)}; {_peak():.1f} GiB peak memory in all"
    )


def _works(module: ExportModule, path: Path, cuda: bool, side: int) -> dict[str, Work]:
    feeds = {
        "image": np.random.default_rng(1).uniform(-1, 1, (1, 3, side, side)).astype(np.float32),
        "edit": np.zeros(1, np.int64),
        "strength": np.ones(1, np.float32),
    }
    from inference.export.formats import INPUTS
    from inference.runtime import Translator

    session = Translator.load(path)._session
    if cuda:
        module = ExportModule(module.vae, module.student, torch.float16).cuda()
    inputs = [torch.from_numpy(feeds[name]).to("cuda" if cuda else "cpu") for name in INPUTS]

    def in_pytorch() -> torch.Tensor:
        with torch.no_grad():
            return module(*inputs).cpu()  # waits for a GPU

    return {"PyTorch": in_pytorch, "ONNX Runtime": lambda: session.run(["translated"], feeds)}


def _last_convolution(module: nn.Module) -> nn.Conv2d:
    return next(each for each in reversed(list(module.modules())) if isinstance(each, nn.Conv2d))


# Shared by both


def _peak() -> float:
    """The process's peak memory in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def full_size_teacher(device: str, dtype: torch.dtype = torch.float16, tiny: bool = False) -> Teacher:
    """Networks of Stable Diffusion 1.5's shapes, except for the text encoder's vocabulary, with random weights.

    Args:
        device: cpu (in float32) or cuda.
        dtype: their precision on a GPU; float16 is what `Teacher.load` chooses for this family.
        tiny: the same classes in small, for trials on a CPU: 64 px.
    """
    side, width, widths = (64, 32, (32, 64, 64, 64)) if tiny else (_SIDE, 768, (320, 640, 1280, 1280))
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", model_max_length=77)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=side // 8, cross_attention_dim=width, block_out_channels=widths, attention_head_dim=8
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=2 if tiny else 12,
                num_attention_heads=4 if tiny else 12,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 32, 32, 32) if tiny else (128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=side,
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
        pipeline.to(dtype)
    defaults = TeacherDefaults(image_size=side, num_inference_steps=50, guidance_scale=7.5)
    return Teacher(pipeline, "random weights", "random weights", defaults)


if __name__ == "__main__":
    main()
