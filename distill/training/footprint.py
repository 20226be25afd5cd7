"""How much memory a training step takes at most, counted before anything is allocated.

A step runs once on PyTorch's meta tensors, which have shapes and no content. The estimate is what stays through all
steps, and the most that lives beside it at one of these moments:

    backward   the student's activations, the teacher's pass, then gradients as activations go
    sum        all gradients, and the flat message of several processes
    optimizer  all gradients, and what Adam makes of them: nothing where it is one fused kernel, as on a GPU
    samples    all gradients still, and the VAE's activations for the sample grid
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distill.settings import NUM_SAMPLES, TrainingSettings, edits_of_an_image
from distill.students import Student
from distill.training.draws import share_of
from distill.training.reduction import BUCKET_BYTES
from distill.training.untrained import CLIP_TOKENS, student_with
from synth.teacher.hub import ModelFolder

_ALLOCATOR = 0.5 * 2**30  # CUDA's own context and kernels, on every GPU


@dataclass(frozen=True)
class Footprint:
    """Bytes of a device's memory that a training takes at most."""

    teacher: int
    """The weights of its network, and of its VAE in its own precision and in float32."""
    student: int
    """Its weights in float32, Adam's two moments of what it learns, and the moving average."""
    step: int
    """What lives for a step or a sample grid alone: activations, gradients, and autocast's copies of the weights."""
    on_gpu: bool

    @property
    def allocated(self) -> int:
        """What torch allocates."""
        return self.teacher + self.student + self.step

    @property
    def total(self) -> int:
        """All of it, with what CUDA takes for itself."""
        return self.allocated + round(_ALLOCATOR * self.on_gpu)


def footprint(
    model: ModelFolder,
    edits: Mapping[str, str],
    settings: TrainingSettings,
    image_size: int,
    dtype: torch.dtype,
    on_gpu: bool,
    world_size: int = 1,
) -> Footprint:
    """Count the memory of one of a training's processes.

    Args:
        model: the teacher, of which only the small files need to be here.
        edits: name -> an example of the target prompt.
        settings: of the training.
        image_size: in pixels.
        dtype: the teacher's precision.
        on_gpu: count as CUDA's autocast does; otherwise as a CPU in `settings.autocast`'s precision.
        world_size: processes that share a step.

    Raises:
        TeacherError: if the teacher has no U-Net for a student of that kind.
        TrainingError: for LoRA without peft.
    """
    num_edits = edits_of_an_image(settings, len(edits))
    pairs = share_of(settings.batch_size * num_edits, world_size - 1, world_size)  # the last share is as large as any
    at_once = min(settings.micro_batch_size or len(pairs), len(pairs))
    images = (pairs.start + at_once - 1) // num_edits - pairs.start // num_edits + 1
    latent = (model.config["in_channels"], image_size // model.vae_scale_factor, image_size // model.vae_scale_factor)
    half = settings.autocast != "off" if on_gpu else settings.autocast == "bfloat16"
    with torch.device("meta"):
        network, vae = nn.Module.to(model.network(), dtype), model.vae()
        student = student_with(model, edits, settings)
        if settings.gradient_checkpointing:
            student.enable_gradient_checkpointing()
        learned = sum(weight.nbytes for weight in student.parameters() if weight.requires_grad)
        turns = 1 if at_once == len(pairs) else 2  # a gradient of earlier micro-batches is there in the second
        step = _peak_of_step(student, caller_of(model, network), (at_once, images, turns), latent, half, on_gpu)
        later = _peak_after_backward(student, vae, latent, on_gpu, world_size)
        num_vae = sum(weight.numel() for weight in vae.parameters())
        copies = {dtype.itemsize, 4} if on_gpu else {dtype.itemsize}
        return Footprint(
            teacher=sum(weight.nbytes for weight in network.parameters()) + num_vae * sum(copies),
            student=sum(weight.nbytes for weight in student.parameters()) + (2 + (settings.ema_decay > 0)) * learned,
            step=max(step, learned + later),
            on_gpu=on_gpu,
        )


def _peak_of_step(
    student: Student,
    call_teacher: Callable[[int, tuple[int, ...]], None],
    portions: tuple[int, int, int],
    latent: tuple[int, ...],
    half: bool,
    on_gpu: bool,
) -> int:
    """Run a step on fake tensors; return the most bytes that live beside the networks' weights.

    Args:
        student: the network in training.
        call_teacher: what `caller_of` returns.
        portions: pairs of a micro-batch, images of it, and micro-batches.
        latent: (C, h, w).
        half: the student runs in bfloat16.
        on_gpu: as CUDA's autocast does it.
    """
    num_pairs, num_images, turns = portions
    student.train()
    if half:
        for module in student.modules():
            _autocast(module, on_gpu)
    z_hat, edit = torch.zeros((num_pairs, *latent)), torch.zeros(num_pairs, dtype=torch.int64)
    with _flash_attention(), _Live(student) as live:
        for _ in range(turns):
            z = z_hat + student(z_hat, edit).float()
            call_teacher(2 * (num_pairs + num_images), latent)
            z.sum().backward()  # type: ignore[no-untyped-call]
    return int(live.peak)


def _peak_after_backward(student: Student, vae: Any, latent: tuple[int, ...], on_gpu: bool, world_size: int) -> int:
    """Return the most bytes that live beside the networks' weights and the gradients once these are complete."""
    learned = [weight.nbytes for weight in student.parameters() if weight.requires_grad]
    message = min(sum(learned), max(BUCKET_BYTES, *learned)) if world_size > 1 else 0
    # Without the fused kernel, a weight after the other: the root of its second moment, and the quotient.
    quotient = 0 if on_gpu else 2 * max(learned)
    num_samples = 1 if on_gpu else NUM_SAMPLES  # on a GPU the VAE takes one image after the other
    with torch.no_grad(), _flash_attention(), _Live(vae) as live:
        vae.decode(torch.zeros((num_samples, *latent)))
    return max(message, quotient, int(live.peak))


def caller_of(model: ModelFolder, network: nn.Module) -> Callable[[int, tuple[int, ...]], None]:
    """Return what calls a teacher's network on so many latents."""
    config, dtype = model.config, next(network.parameters()).dtype

    @torch.no_grad()
    def call(num: int, latent: tuple[int, ...]) -> None:
        z_t, t = torch.zeros((num, *latent), dtype=dtype), torch.zeros(num, dtype=torch.int64)
        if model.family.network_name == "transformer":
            network(
                z_t,
                timestep=t,
                encoder_hidden_states=torch.zeros((num, CLIP_TOKENS, config["joint_attention_dim"]), dtype=dtype),
                pooled_projections=torch.zeros((num, config["pooled_projection_dim"]), dtype=dtype),
            )
            return
        text = torch.zeros((num, CLIP_TOKENS, config["cross_attention_dim"]), dtype=dtype)
        added = None
        if config.get("addition_embed_type"):
            sizes = 6 * config["addition_time_embed_dim"]
            pooled = torch.zeros((num, config["projection_class_embeddings_input_dim"] - sizes), dtype=dtype)
            added = {"text_embeds": pooled, "time_ids": torch.zeros((num, 6), dtype=dtype)}
        network(z_t, t, encoder_hidden_states=text, added_cond_kwargs=added)

    return call


def _autocast(module: nn.Module, on_gpu: bool) -> None:
    """Let a layer do what autocast does, which does not know meta tensors."""
    if isinstance(module, nn.GroupNorm | nn.LayerNorm) and on_gpu:  # CUDA's autocast takes norms to float32
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    elif isinstance(module, nn.Conv2d | nn.Linear):
        module.forward = partial(_in_bfloat16, module)  # type: ignore[method-assign]


def _in_bfloat16(layer: nn.Conv2d | nn.Linear, inputs: Tensor, *_: Any) -> Tensor:
    """A layer's output by copies of its weights in bfloat16, which live until its backward pass."""
    bias = None if layer.bias is None else layer.bias.bfloat16()
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(inputs.bfloat16(), layer.weight.bfloat16(), bias)
    output: Tensor = layer._conv_forward(inputs.bfloat16(), layer.weight.bfloat16(), bias)
    return output


@contextmanager
def _flash_attention() -> Iterator[None]:
    """Let attention keep no matrix of all pairs of places, as the kernels of GPUs and CPUs do it."""
    functional = torch.nn.functional
    before = functional.scaled_dot_product_attention

    def flash(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]

    functional.scaled_dot_product_attention = flash  # a mode would not reach what the backward pass computes again
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = before


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all tensors that operators make, from when they are made until they are freed."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        # Storage -> bytes. Views of weights are new tensors, but no new memory.
        self._sizes = {
            weight.untyped_storage()._cdata: 0 for module in modules for weight in module.state_dict().values()
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self._now -= self._sizes.pop(key)
