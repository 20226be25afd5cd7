"""The memory of a training step, counted on tensors without content, against counts by other means."""

from pathlib import Path
from typing import Any

import pytest
import torch
from large_models import SD_15, SD_21, XL, model
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from distill.settings import TrainingSettings
from distill.students import CompactStudent, UNetStudent
from distill.training.footprint import Footprint, _flash_attention, footprint
from distill.training.train import new_optimizer
from synth.teacher.hub import ModelFolder, find

GIB = 2**30


def count(folder: ModelFolder, size: int, num_edits: int = 1, **settings: Any) -> Footprint:
    edits = {f"edit {number}": "" for number in range(num_edits)}
    return footprint(folder, edits, TrainingSettings(**settings), size, folder.family.half, on_gpu=True)


def saved(student: torch.nn.Module, num: int, side: int, half: bool = True) -> int:
    """Bytes that a student's backward pass keeps of `num` pairs, by autograd's own hooks and the CPU's autocast."""
    kept: dict[int, tuple[int, Tensor]] = {}
    weights = {weight.untyped_storage()._cdata for weight in student.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
        student(torch.zeros(num, 4, side, side), torch.zeros(num, dtype=torch.int64))
    return sum(num_bytes for key, (num_bytes, _) in kept.items() if key not in weights)


FITS: dict[str, dict[str, Any]] = {
    "full": {"gradient_checkpointing": True, "micro_batch_size": 1},
    "lora": {"gradient_checkpointing": True, "micro_batch_size": 1, "lora_rank": 16},
    "compact": {"student": "compact"},
}


@pytest.fixture(scope="module")
def sd_15(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return model(tmp_path_factory.mktemp("sd-15"), SD_15)


@pytest.fixture(scope="module")
def fits(sd_15: ModelFolder) -> dict[str, Footprint]:
    """Six edits of two images, in the ways that fit on smaller cards. A count takes seconds."""
    return {name: count(sd_15, 512, 6, **settings) for name, settings in FITS.items()}


def test_what_is_known_of_stable_diffusion_15(sd_15: ModelFolder, fits: dict[str, Footprint]) -> None:
    """1.16 GiB of activations a pair at 512 px; 860 million weights; what fits on which card."""
    eight, six = count(sd_15, 512, batch_size=8), count(sd_15, 512, batch_size=6)
    # Each pair also brings four of the teacher's latents, a few hundredths of a GiB each.
    assert 1.10 < (eight.step - six.step) / 2 / GIB < 1.45
    weights = 859_520_964 * 4
    assert eight.student == pytest.approx(3 * weights, rel=0.001)
    assert eight.teacher == 859_520_964 * 2 + 83_653_863 * (2 + 4)
    assert fits["full"].total < 24 * GIB
    assert fits["lora"].total < 12 * GIB


@pytest.mark.slow
def test_what_a_default_training_takes(tmp_path: Path) -> None:
    folder, weights = model(tmp_path, SD_15), 859_520_964 * 4
    default = count(folder, 512, 6)
    assert 26 * GIB < default.total < 34 * GIB
    assert count(folder, 512, 6, ema_decay=0.9).student == pytest.approx(4 * weights, rel=0.001)
    halves = footprint(
        folder, dict.fromkeys("abcdef", ""), TrainingSettings(), 512, torch.float16, True, world_size=2
    )
    assert halves.step == pytest.approx(count(folder, 512, 6, batch_size=1).step, rel=0.01)


def test_a_gradient_waits_through_later_micro_batches(sd_15: ModelFolder) -> None:
    alone = count(sd_15, 512, 2, batch_size=1)
    parts = count(sd_15, 512, 4, batch_size=1, micro_batch_size=2)
    assert parts.step - alone.step > 2 * GIB


def test_counts_are_near_what_a_gpu_allocated(sd_15: ModelFolder, fits: dict[str, Footprint]) -> None:
    """On an H200, as `benchmarks/gpu.py` measured it for six edits of two images, and for one."""
    one = count(sd_15, 512, 1)
    assert one.allocated / GIB == pytest.approx(16.3, rel=0.03)
    full, lora, compact = (fits[name] for name in FITS)
    assert lora.allocated / GIB == pytest.approx(6.2, rel=0.1)
    assert compact.allocated / GIB == pytest.approx(4.4, rel=0.1)
    # That measurement had PyTorch's default Adam, which makes the roots of all second moments at once. The training's
    # own is one kernel, so that its peak is that of the backward pass.
    gradients = roots = 859_520_964 * 4
    assert (full.teacher + full.student + gradients + roots) / GIB == pytest.approx(18.3, rel=0.02)
    assert full.allocated / GIB == pytest.approx(16.0, abs=0.1)


def test_the_optimizer_on_a_gpu_is_one_kernel() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]
    assert new_optimizer(weights, 1e-3, torch.device("cuda")).defaults["fused"] is True
    assert not new_optimizer(weights, 1e-3, torch.device("cpu")).defaults["fused"]


def test_what_lives_after_the_backward_pass_counts(tiny_sd_folder: Path) -> None:
    """Gradients, beside a sample grid's decode, or the flat message of several processes."""
    tiny, settings = find(str(tiny_sd_folder), None), TrainingSettings(student="compact", batch_size=1)

    def counted(size: int, on_gpu: bool, processes: int = 1, **more: Any) -> int:
        edits = dict.fromkeys("ab", "")
        given = settings.model_copy(update=more)
        return footprint(tiny, edits, given, size, torch.float32, on_gpu, processes).step

    with torch.device("meta"):
        learned = sum(weight.nbytes for weight in CompactStudent(4, ["a", "b"], ["", ""]).parameters())
    # The tiny VAE has 8 channels at full size: its activations are small beside the gradients of small images.
    one, four = counted(1024, on_gpu=True), counted(1024, on_gpu=False)
    assert one > learned + 2 * 8 * 1024**2 * 4, "two activations of an image at least"
    assert four > learned + 4 * 2 * 8 * 1024**2 * 4, "on a CPU all samples at once"
    assert counted(64, True, processes=2) >= 2 * learned, "the gradients, and the message that they are copied into"


KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "checkpointed": {"gradient_checkpointing": True},
    "lora": {"lora_rank": 16},
    "compact": {"student": "compact"},
}


@pytest.mark.slow
@pytest.mark.parametrize("num_edits", [1, 4, 6])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unet", ["SD_15", "SD_21"])
def test_activations_are_within_a_tenth_of_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unet: str, kind: str, num_edits: int
) -> None:
    """PyTorch's fake tensors under the CPU's autocast, which leaves norms in bfloat16 where a GPU's does not."""
    config, size = (SD_15, 512) if unet == "SD_15" else (SD_21, 768)
    folder, side = model(tmp_path, config), size // 8
    settings, names = TrainingSettings(**KINDS[kind]), [f"edit {number}" for number in range(num_edits)]

    context = (77, folder.config["cross_attention_dim"])
    if kind == "lora":  # peft cannot move fake tensors: without autocast, meta tensors do
        settings = settings.model_copy(update={"autocast": "off"})
        with torch.device("meta"), _flash_attention():
            want = saved(UNetStudent(folder.config, names, names, context, 1, 16), 2 * num_edits, side, half=False)
    else:
        with FakeTensorMode():
            student: Any = CompactStudent(4, names, names)
            if kind != "compact":
                student = UNetStudent(folder.config, names, names, context, 1)
            if kind == "checkpointed":
                student.enable_gradient_checkpointing()
            want = saved(student, 2 * num_edits, side)
    counted = kept_by_the_estimate(folder, dict.fromkeys(names, ""), settings, size, monkeypatch)
    assert counted == pytest.approx(want, rel=0.1)


def kept_by_the_estimate(
    folder: ModelFolder,
    edits: dict[str, str],
    settings: TrainingSettings,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> int:
    """What lives between the student's forward pass and the teacher's, by the estimate's own meter."""
    from distill.training import footprint as module

    lives: list[int] = []
    meters: list[Any] = []
    enter = module._Live.__enter__
    monkeypatch.setattr(module._Live, "__enter__", lambda meter: (meters.append(meter), enter(meter))[1])
    monkeypatch.setattr(module, "caller_of", lambda *_: lambda *_: lives.append(meters[-1]._now))
    autocast = module._autocast
    monkeypatch.setattr(module, "_autocast", lambda layer, on_gpu: autocast(layer, False))
    module.footprint(folder, edits, settings, size, torch.float16, True)
    return lives[0]


@pytest.mark.slow
@pytest.mark.parametrize("num_edits", [1, 4, 6])
def test_xl_teaches_a_compact_student_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_edits: int) -> None:
    folder, settings = model(tmp_path, XL, "StableDiffusionXLPipeline"), TrainingSettings(student="compact")
    names = [f"edit {number}" for number in range(num_edits)]
    with FakeTensorMode():
        want = saved(CompactStudent(4, names, names), 2 * num_edits, 128)
    edits = dict.fromkeys(names, "")
    assert kept_by_the_estimate(folder, edits, settings, 1024, monkeypatch) == pytest.approx(want, rel=0.1)
    counted = count(folder, 1024, num_edits, student="compact")
    assert counted.teacher == pytest.approx(2_567_463_684 * 2 + 83_653_863 * 6, rel=0.001)
    assert counted.step > want, "the teacher's own pass and the gradients lie beside it"


def test_other_students_than_the_teacher_takes_are_refused(tiny_xl_folder: Path, tiny_3_folder: Path) -> None:
    for tiny in (tiny_xl_folder, tiny_3_folder):
        small = find(str(tiny), None)
        compact = footprint(small, {"a": ""}, TrainingSettings(student="compact"), 64, torch.bfloat16, True)
        assert compact.step > 0 and compact.teacher > 0
        with pytest.raises(Exception, match=r"training\.student=compact"):
            footprint(small, {"a": ""}, TrainingSettings(), 64, torch.bfloat16, True)
