"""The steps of `benchmarks/gpu.py` that do not train: each is called with whether shapes are tiny."""

import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from full_size import full_size_teacher, measure_file
from gpu_shared import Result, device_of, edits_of, timed
from torch import Tensor

from distill.scores import Sources, shared_source_dds
from distill.settings import TrainingSettings
from distill.students import new_student
from inference.export.modules import ExportModule
from synth.errors import first_line
from synth.settings import TeacherSettings
from synth.teacher.teacher import Teacher


@torch.no_grad()
def score(tiny: bool) -> Result:
    """Error of the score at guidance 25 by the precision, with the miniature's weights: random ones have no score."""
    gradients = {
        dtype: _gradient(Teacher.load(TeacherSettings(device=device_of(tiny), dtype=dtype)))
        for dtype in ("float32", "float16", "bfloat16")
    }
    exact = gradients.pop("float32")
    errors = {dtype: float((each - exact).norm() / exact.norm()) for dtype, each in gradients.items()}
    return {dtype: f"{error:.1%} of the score" for dtype, error in errors.items()}


def _gradient(teacher: Teacher) -> Tensor:
    side, device = teacher.defaults.image_size // teacher.vae_scale_factor, teacher.device
    generator = torch.Generator().manual_seed(0)
    z_hat, eps, change = (
        torch.randn((2, teacher.latent_channels, side, side), generator=generator).to(device) for _ in range(3)
    )
    y, y_hat = teacher.encode_prompt(["a red sofa"] * 2), teacher.encode_prompt(["a grey sofa"] * 2)
    t = torch.tensor([300, 700], device=device)
    sources = Sources(z_hat, y_hat, t, eps)
    return shared_source_dds(teacher, z_hat + 0.1 * change, y, sources, [0, 1], 25.0)


def painting(tiny: bool) -> Result:
    """Paint with either sampler."""
    from diffusers import PNDMScheduler

    teacher = full_size_teacher(device_of(tiny), tiny=tiny)
    own = teacher.pipeline.scheduler
    pndm = PNDMScheduler.from_config(own.config, skip_prk_steps=True)
    samplers = {"PNDM, 50 steps": (pndm, 50), "DPM-Solver++, 25 steps": (teacher.family.scheduler("dpm++"), 25)}
    results: Result = {}
    for name, (scheduler, steps) in samplers.items():
        teacher.pipeline.scheduler = scheduler
        num_images = 2 if tiny else 8
        for _ in range(2):  # the first call prepares kernels
            started = time.perf_counter()
            teacher.pipeline(["a red sofa"] * num_images, num_inference_steps=2 if tiny else steps, output_type="np")
            seconds = time.perf_counter() - started
        results[name] = f"{seconds / num_images:.3f} s an image"
    return results


@torch.no_grad()
def decode(tiny: bool) -> Result:
    """Decode ten latents of 1024 px."""
    teacher = full_size_teacher(device_of(tiny), tiny=tiny)
    side = 8 if tiny else 128
    latents = torch.randn((10, 4, side, side), device=teacher.device)
    return {"ten images, one at a time": timed(teacher, lambda _: [teacher.decode(each[None]) for each in latents])}


def demo(tiny: bool) -> Result:
    """Run the miniature's demo."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-c",
            "from flows.cli import main; main()",
            "run",
            "demo",
            "--out",
            f"{folder}/demo",
        ]
        small = ["scenes.count=6", "training.steps=2", "evaluation.num_scenes=1", "evaluation.num_no_op_scenes=0"]
        command += [word for key in small for word in ("--set", key)] if tiny else []
        started = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        if ended.returncode:
            return {"failed": ended.stderr.strip().splitlines()[-1]}
        return {"whole, s": round(time.perf_counter() - started, 1)}


@torch.no_grad()
def files(tiny: bool) -> Result:
    """Take an image through what an exported file computes, in each format that this machine runs on a GPU."""
    device = device_of(tiny)
    teacher = full_size_teacher(device, torch.float32, tiny)
    student = new_student(teacher, edits_of(2), TrainingSettings())
    torch.nn.init.normal_(student.unet.conv_out.weight, std=0.02)  # an untrained student would change nothing
    exact = ExportModule(teacher.vae, student).to(device)
    half = ExportModule(teacher.vae, student, torch.float16).to(device) if not tiny else exact
    side = teacher.defaults.image_size
    generator = torch.Generator().manual_seed(0)
    image = (2 * torch.rand((1, 3, side, side), generator=generator) - 1).to(device)
    inputs = (image, torch.tensor([1], device=device), torch.ones(1, device=device))
    wanted = exact(*inputs)

    results: Result = {}
    works = {
        "float32, PyTorch": lambda: exact,
        "float16, PyTorch": lambda: half,
        "float16, TorchScript": lambda: torch.jit.trace(half, inputs, check_trace=False),  # type: ignore[no-untyped-call]
        "float16, pt2": lambda: torch.export.export(half, inputs, strict=False).module(),
    }
    for name, made in works.items():
        try:
            with warnings.catch_warnings(action="ignore"):  # the tracers' about their own internals
                module = made()
            error = (module(*inputs) - wanted).abs()
            results[name] = (
                f"{timed(teacher, lambda _, module=module: module(*inputs))}, "  # type: ignore[misc]
                f"off by {error.mean():.1e} in the mean, {error.max():.1e} at most"
            )
        except (RuntimeError, torch.OutOfMemoryError) as failure:
            results[name] = f"failed: {first_line(failure)[:160]}"
    return results | _onnx_on_gpu()


def _onnx_on_gpu() -> Result:
    """The ONNX file in float16 beside PyTorch, where ONNX Runtime has its CUDA provider."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return {"float16, ONNX": "not run: onnxruntime-gpu"}
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return {"float16, ONNX": "not run: onnxruntime-gpu"}
    return {"ONNX": measure_file("unet", 3)}
