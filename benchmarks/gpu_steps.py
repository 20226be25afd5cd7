"""The steps of `benchmarks/gpu.py`: each is called with whether shapes are tiny, in a process of its own."""

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from full_size import full_size_teacher, measure_file
from torch import Tensor

from distill.scores import Sources, shared_source_dds
from distill.settings import TrainingSettings
from distill.students import Student, new_student
from distill.training import objective as objectives
from distill.training.checkpoint_writer import CheckpointWriter
from distill.training.checkpoints import latest, restore
from distill.training.footprint import footprint
from distill.training.objective import Objective
from distill.training.pairs import Pairs
from distill.training.precision import autocast_of, autocast_of_score
from inference.export.files import ExportModule
from synth.errors import TrainingError
from synth.settings import TeacherSettings
from synth.teacher.families import StableDiffusion
from synth.teacher.hub import ModelFolder
from synth.teacher.teacher import Teacher

Result = dict[str, Any]

_GIB = 2**30
_FITS: dict[str, tuple[int, dict[str, Any]]] = {
    "full": (24, {"gradient_checkpointing": True, "micro_batch_size": 1}),
    "lora": (12, {"gradient_checkpointing": True, "micro_batch_size": 1, "lora_rank": 16}),
    "compact": (12, {"student": "compact"}),
}
"""Kind -> GiB of the card, and settings of a training of six edits."""


# Training


def ladder(num_edits: int, tiny: bool) -> Result:
    """Time a step of the training with one thing added after the other."""
    teacher = full_size_teacher(_device(tiny), tiny=tiny)
    student = new_student(teacher, _edits(num_edits), TrainingSettings())
    rungs: dict[str, Callable[[], None]] = {
        "teacher inside autocast": lambda: _score_inside(True),
        "teacher outside": lambda: _score_inside(False),
        "student channels_last": lambda: student.to(memory_format=torch.channels_last),
        "cuDNN's search": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    }
    results: Result = {}
    for name, climb in rungs.items():
        climb()
        results[name] = _steps(teacher, student, num_edits)
    torch.backends.cudnn.benchmark = False
    return results


def compiled(tiny: bool) -> Result:
    """Time a step of the training with four edits and both networks compiled, block by block."""
    if tiny:
        return {"not run": "a compiler takes minutes on a CPU"}
    teacher = full_size_teacher(_device(tiny))
    student = new_student(teacher, _edits(4), TrainingSettings()).to(memory_format=torch.channels_last)
    for network in (student.unet, teacher.network):
        network.compile_repeated_blocks(fullgraph=True)
    return {"four edits": _steps(teacher, student, 4)}


def _score_inside(inside: bool) -> None:
    """Let the teacher's score be computed inside the student's autocast, or as the training does it."""
    objectives.autocast_of_score = (  # type: ignore[attr-defined]
        (lambda settings, teacher: autocast_of(settings, teacher.device)) if inside else autocast_of_score
    )


def _steps(teacher: Teacher, student: Student, num_edits: int) -> str:
    settings = TrainingSettings(batch_size=2)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-5, fused=teacher.device.type == "cuda")
    try:
        pairs = _pairs(teacher, num_edits)
        objective = Objective(teacher, student, pairs, settings, shared_source_dds, PartialState())
        return _timed(teacher, lambda step: _train_step(objective, optimizer, step))
    except TrainingError as error:
        return str(error)


def fits(tiny: bool) -> Result:
    """Train six edits in the memory of smaller cards, beside the estimate."""
    results: Result = {}
    for kind, (gib, overrides) in _FITS.items():
        if not tiny:
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, gib * _GIB / total))
        teacher = full_size_teacher(_device(tiny), tiny=tiny)
        settings = TrainingSettings(batch_size=2, **overrides)
        counted = footprint(
            _folder(teacher), _edits(6), settings, teacher.defaults.image_size, teacher.dtype, not tiny
        )
        try:
            student = new_student(teacher, _edits(6), settings)
            optimizer = torch.optim.Adam([weight for weight in student.parameters() if weight.requires_grad], lr=1e-5)
            pairs = _pairs(teacher, 6)
            objective = Objective(teacher, student, pairs, settings, shared_source_dds, PartialState())
            took = _timed(teacher, lambda step, o=objective, a=optimizer: _train_step(o, a, step))  # type: ignore[misc]
        except (TrainingError, torch.OutOfMemoryError) as error:
            took = f"does not fit: {error}"
        except ModuleNotFoundError as error:
            took = f"not run: {error.name}"
        results[f"{kind} in {gib} GiB"] = f"{took}, counted {counted.total / _GIB:.1f}"
    return results


def _train_step(objective: Objective, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
    squares = objective.backward(step, omega=7.5, lambda_id=1.0)
    optimizer.step()
    objective.prepare(step + 1)
    return squares


def checkpoint(tiny: bool) -> Result:
    """Write a checkpoint by a thread, and restore it."""
    teacher = full_size_teacher(_device(tiny), tiny=tiny)
    settings = TrainingSettings(steps=10**6)
    student = new_student(teacher, _edits(2), settings)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-5)
    for weight in student.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        depends_on = {"data": "none"}
        writer = CheckpointWriter(Path(folder), settings, depends_on, in_thread=True)
        started = time.perf_counter()
        writer.write(1, student, None, optimizer)
        begun = time.perf_counter() - started
        writer.wait()
        ended = time.perf_counter() - started
        newest = latest(Path(folder))
        assert newest is not None
        started = time.perf_counter()
        restore(newest, student, None, optimizer, depends_on)
        return {
            "the loop waits, s": round(begun, 2),
            "on disk after, s": round(ended, 2),
            "restored in, s": round(time.perf_counter() - started, 2),
        }


# The teacher


@torch.no_grad()
def score(tiny: bool) -> Result:
    """Error of the score at guidance 25 by the precision, with the miniature's weights: random ones have no score."""
    gradients = {
        dtype: _gradient(Teacher.load(TeacherSettings(device=_device(tiny), dtype=dtype)))
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

    teacher = full_size_teacher(_device(tiny), tiny=tiny)
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
    teacher = full_size_teacher(_device(tiny), tiny=tiny)
    side = 8 if tiny else 128
    latents = torch.randn((10, 4, side, side), device=teacher.device)
    return {"ten images, one at a time": _timed(teacher, lambda _: [teacher.decode(each[None]) for each in latents])}


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
    device = _device(tiny)
    teacher = full_size_teacher(device, torch.float32, tiny)
    student = new_student(teacher, _edits(2), TrainingSettings())
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
                f"{_timed(teacher, lambda _, module=module: module(*inputs))}, "  # type: ignore[misc]
                f"off by {error.mean():.1e} in the mean, {error.max():.1e} at most"
            )
        except (RuntimeError, torch.OutOfMemoryError) as failure:
            results[name] = f"failed: {one_line_of(failure)}"
    return results | onnx_on_gpu()


def onnx_on_gpu() -> Result:
    """The ONNX file in float16 beside PyTorch, where ONNX Runtime has its CUDA provider."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return {"float16, ONNX": "not run: onnxruntime-gpu"}
    return {"float16, ONNX": measure_file("unet", 3)}


def one_line_of(error: Exception) -> str:
    """The beginning of an error's message."""
    return " ".join(str(error).split())[:160]


# Shared


def _device(tiny: bool) -> str:
    return "cpu" if tiny else "cuda"


def _edits(num: int) -> dict[str, str]:
    return {f"edit-{number}": f"a sofa number {number}" for number in range(num)}


def _pairs(teacher: Teacher, num_edits: int) -> Pairs:
    side = teacher.defaults.image_size // 8
    latents = torch.randn((4, 4, side, side), generator=torch.Generator().manual_seed(0))
    return Pairs(latents, ["a grey sofa"] * 4, [list(_edits(num_edits).values())] * 4)


def _folder(teacher: Teacher) -> ModelFolder:
    """The small files of a teacher that was never on disk."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-"))
    teacher.pipeline.vae.save_config(folder / "vae")
    index = {"vae": ["diffusers", type(teacher.pipeline.vae).__name__]}
    return ModelFolder("random weights", folder, StableDiffusion, index, dict(teacher.network.config), None)


def _timed(teacher: Teacher, work: Callable[[int], object]) -> str:
    """The median of a few calls, after those that prepare kernels, and the peak memory."""
    on_gpu = teacher.device.type == "cuda"
    seconds: list[float] = []
    for step in range(8 if on_gpu else 2):
        started = time.perf_counter()
        work(step)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        if step == 0 and on_gpu:
            torch.cuda.reset_peak_memory_stats()
    later = sorted(seconds[len(seconds) // 2 :])
    peak = f", {torch.cuda.max_memory_allocated() / _GIB:.1f} GiB" if on_gpu else ""
    return f"{1000 * later[len(later) // 2]:.0f} ms{peak}"
