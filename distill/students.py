"""The student: one pass of a network edits a latent, z = z_hat + delta(z_hat, edit).

Two kinds, each a diffusers model: saved, loaded and pushed to the Hub like any other.

    UNetStudent       the paper's: the teacher's own U-Net, trained for another task
    CompactStudent    a small convolutional network: for phones, browsers, CPUs, and teachers of any family

Shapes: N samples, K edits, C x h x w a latent, T tokens of D channels a text.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from distill.compact import CompactUNet
from distill.settings import TrainingSettings
from synth.errors import TeacherError, TrainingError
from synth.seeds import derive_seed
from synth.state import read_json, read_network
from synth.teacher.teacher import Teacher

_VECTOR_SIZE = 128  # D of the vector that tells a compact student its edit
_LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"]
"""Attention projections, feed-forward layers and the convolutions of the residual blocks."""


@dataclass(frozen=True)
class TeacherShape:
    """What a student's own shape follows from, known without the teacher's weights."""

    name: str
    """The teacher's, for messages."""
    network_class: str
    """Of diffusers, such as UNet2DConditionModel."""
    config: Mapping[str, Any]
    """Of that network."""
    context_size: tuple[int, int]
    """T and D of an encoded text."""


class Student(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The base of all students: latent in, change out, without a text encoder.

    An untrained student changes nothing at all. An edit's number is its place in `edits`.
    """

    config_name = "config.json"

    @property
    def edits(self) -> dict[str, str]:
        """Name -> an example of the target prompt, in the order of the edits' numbers."""
        return dict(zip(self.config.edit_names, self.config.edit_prompts, strict=True))

    @classmethod
    @abstractmethod
    def from_teacher(cls, teacher: Teacher, edits: Mapping[str, str], settings: TrainingSettings) -> "Student":
        """Make an untrained student in float32 on the teacher's device; draw what is random from torch's state.

        Args:
            teacher: the model that it will learn from.
            edits: name -> an example of the target prompt.
            settings: of the training.

        Raises:
            TeacherError: if the teacher has no U-Net for a student of this kind.
            TrainingError: for LoRA without peft.
        """

    @classmethod
    @abstractmethod
    def from_shape(cls, shape: TeacherShape, edits: Mapping[str, str], settings: TrainingSettings) -> "Student":
        """Make a student as `from_teacher` does, but with random weights alone, on PyTorch's default device."""

    @abstractmethod
    def forward(self, latents: Tensor, edit: Tensor) -> Tensor:
        """Compute the change that an edit makes.

        Args:
            latents: z_hat, float (N, C, h, w); h and w may be odd.
            edit: int64 (N,), numbers of edits.

        Returns:
            delta, float (N, C, h, w): the edited latent is z_hat + delta.
        """

    def merged(self) -> "Student":
        """Return the same function without what only training needs."""
        return self


class UNetStudent(Student):
    """The teacher's U-Net with its weights, but for the last layer, which starts at zero.

    The timestep is fixed. Instead of a text, each edit has a learned context, which starts as the embedding of the
    edit's target prompt.

    Args:
        unet_config: of the UNet2DConditionModel.
        edit_names: an edit's number is its place here.
        edit_prompts: for each edit an example of its target prompt, from which its context started.
        context_size: (T, D), tokens and width of a context.
        timestep: what the network is always called with, 0 to 999.
        lora_rank: 0 trains all weights; another number trains LoRA of that rank, the last layer and the contexts,
            while the other weights stay the teacher's.
    """

    _supports_gradient_checkpointing: ClassVar[bool] = True

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        unet_config: dict[str, Any],
        edit_names: list[str],
        edit_prompts: list[str],
        context_size: tuple[int, int],
        timestep: int,
        lora_rank: int = 0,
    ) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel.from_config(unet_config)
        self.contexts = nn.Parameter(torch.zeros(len(edit_names), *context_size))  # (K, T, D)
        if lora_rank:
            _adapt(self.unet, lora_rank)

    @classmethod
    def from_teacher(cls, teacher: Teacher, edits: Mapping[str, str], settings: TrainingSettings) -> "UNetStudent":
        """See `Student.from_teacher`."""
        require_plain_unet(teacher.name, teacher.family.network_class, teacher.network.config)
        contexts = teacher.encode_prompt(list(edits.values())).prompt_embeds  # (K, T, D)
        config, size = public_config(teacher.unet.config), tuple(contexts.shape[1:])
        with teacher.device:  # a GPU draws the weights, which the teacher's replace, in a moment
            student: UNetStudent = cls(config, list(edits), list(edits.values()), size, settings.student_timestep)
        student.unet.load_state_dict(teacher.unet.state_dict())  # copied into float32
        with torch.no_grad():
            student.unet.conv_out.weight.zero_()
            student.unet.conv_out.bias.zero_()
            student.contexts.copy_(contexts)
        if settings.lora_rank:
            _adapt(student.unet, settings.lora_rank)
            student.register_to_config(lora_rank=settings.lora_rank)
        return student.to(teacher.device)  # type: ignore[no-any-return]

    @classmethod
    def from_shape(cls, shape: TeacherShape, edits: Mapping[str, str], settings: TrainingSettings) -> "UNetStudent":
        """See `Student.from_shape`."""
        require_plain_unet(shape.name, shape.network_class, shape.config)
        config, timestep, rank = public_config(shape.config), settings.student_timestep, settings.lora_rank
        names, prompts = list(edits), list(edits.values())
        return cls(config, names, prompts, shape.context_size, timestep, rank)  # type: ignore[no-any-return]

    def forward(self, latents: Tensor, edit: Tensor) -> Tensor:
        """See `Student.forward`."""
        contexts = self.contexts[edit]  # (N, T, D)
        timesteps = torch.full_like(edit, self.config.timestep)  # (N,)
        delta: Tensor = self.unet(latents, timesteps, encoder_hidden_states=contexts).sample  # (N, C, h, w)
        return delta

    def merged(self) -> "UNetStudent":
        """Add LoRA's products to the weights that they adapt: the result needs no peft."""
        if not self.config.lora_rank:
            return self
        plain = UNetStudent(**public_config(self.config) | {"lora_rank": 0})
        unet = deepcopy(self.unet)  # the student itself continues to train
        unet.fuse_lora()
        unet.unload_lora()
        plain.unet.load_state_dict(unet.state_dict())
        with torch.no_grad():
            plain.contexts.copy_(self.contexts)
        return plain.to(self.device).eval()  # type: ignore[no-any-return]


class CompactStudent(Student):
    """A small convolutional U-Net, trained from scratch; a learned vector tells it which edit to make.

    Args:
        latent_channels: C of the teacher's latents.
        edit_names: an edit's number is its place here.
        edit_prompts: for each edit an example of its target prompt.
        widths: channels of the levels, the finest first.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int,
        edit_names: list[str],
        edit_prompts: list[str],
        widths: Sequence[int] = (64, 128, 192),
    ) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(len(edit_names), _VECTOR_SIZE))  # (K, D)
        self.unet = CompactUNet(latent_channels, _VECTOR_SIZE, widths)

    @classmethod
    def from_teacher(cls, teacher: Teacher, edits: Mapping[str, str], settings: TrainingSettings) -> "CompactStudent":
        """See `Student.from_teacher`. Teachers of any family will do."""
        student: CompactStudent = cls(teacher.latent_channels, list(edits), list(edits.values()))
        return student.to(teacher.device)  # type: ignore[no-any-return]

    @classmethod
    def from_shape(
        cls, shape: TeacherShape, edits: Mapping[str, str], settings: TrainingSettings
    ) -> "CompactStudent":
        """See `Student.from_shape`."""
        return cls(shape.config["in_channels"], list(edits), list(edits.values()))  # type: ignore[no-any-return]

    def forward(self, latents: Tensor, edit: Tensor) -> Tensor:
        """See `Student.forward`."""
        delta: Tensor = self.unet(latents, self.vectors[edit])  # (N, C, h, w)
        return delta


STUDENT_KINDS: dict[str, type[Student]] = {"unet": UNetStudent, "compact": CompactStudent}
"""The kinds that `training.student` chooses from."""


def new_student(teacher: Teacher, edits: Mapping[str, str], settings: TrainingSettings) -> Student:
    """Make the untrained student of a training; the same settings give the same weights.

    Args:
        teacher: the model that it will learn from.
        edits: name -> an example of the target prompt.
        settings: which kind.

    Raises:
        TeacherError: if the teacher has no U-Net for a student of that kind.
        TrainingError: for LoRA without peft.
    """
    # Nobody else's draws may depend on a student's, on whichever device they are made.
    with torch.random.fork_rng(devices=[teacher.device] if teacher.device.type == "cuda" else []):
        torch.manual_seed(derive_seed(settings.seed, "student"))
        student = STUDENT_KINDS[settings.student].from_teacher(teacher, edits, settings)
    if settings.gradient_checkpointing:
        student.enable_gradient_checkpointing()
    return student


def load_student(folder: Path) -> Student:
    """Load a student of either kind from the folder that it was saved in.

    Raises:
        TrainingError: if a file of it is missing or damaged, or lacks weights.
    """
    remedy = f"delete {folder}, and the training writes it again"
    name: str = read_json(folder / Student.config_name, dict[str, Any], TrainingError, remedy).get("_class_name", "")
    kind = CompactStudent if str(name).startswith("Compact") else UNetStudent
    student: Student = read_network(kind, folder, TrainingError, remedy)
    return student


def require_plain_unet(name: str, network_class: str, config: Mapping[str, Any]) -> None:
    """Refuse a teacher whose network cannot become a `unet` student.

    Args:
        name: the teacher's.
        network_class: of diffusers.
        config: the network's.

    Raises:
        TeacherError: if it is no U-Net, or one that needs more than a text.
    """
    if network_class != UNet2DConditionModel.__name__:
        raise TeacherError(
            f"{name} has no U-Net (its network is a {network_class}): "
            "take a teacher of Stable Diffusion 1.x or 2.x, or training.student=compact"
        )
    if config.get("addition_embed_type"):
        raise TeacherError(
            f"{name} has a U-Net that also needs a pooled text and sizes, which a student cannot give it: "
            "use a teacher of Stable Diffusion 1.x or 2.x, or training.student=compact"
        )


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration without the entries that diffusers adds."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _adapt(unet: Any, rank: int) -> None:
    """Freeze a U-Net but for its last layer, and add LoRA to it."""
    try:
        from peft import LoraConfig
    except ModuleNotFoundError as error:
        raise TrainingError(
            'training.lora_rank needs peft: pip install "dds-distillery[lora]", or set it to 0'
        ) from error
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=_LORA_TARGETS))
    unet.conv_out.requires_grad_(True)
