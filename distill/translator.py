"""The student: one pass of a network turns a latent into its edited self, z = z_hat + delta(z_hat, edit)."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from synth.errors import TeacherError
from synth.teacher import Teacher


class LatentTranslator(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The teacher's U-Net, put to another use: latent in, change out.

    It keeps the teacher's weights but for the last layer, which starts at zero, so that an untrained student changes
    nothing at all. The timestep is fixed. In place of a text it has one learned context for each edit: no text
    encoder is needed once it is trained. Save and load it as any diffusers model.

    Args:
        unet_config: of the UNet2DConditionModel.
        edit_names: what the edits are called; an edit's number is its place here.
        edit_prompts: for each edit an example of its target prompt, from which its context started.
        context_size: (T, D), tokens and width of a context.
        timestep: the one that the network is always called with, 0 to 999.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        unet_config: dict[str, Any],
        edit_names: list[str],
        edit_prompts: list[str],
        context_size: tuple[int, int],
        timestep: int,
    ) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel.from_config(unet_config)
        self.contexts = nn.Parameter(torch.zeros(len(edit_names), *context_size))  # (K, T, D)

    @classmethod
    def from_teacher(cls, teacher: Teacher, edits: Mapping[str, str], timestep: int = 1) -> "LatentTranslator":
        """An untrained student in float32, where the teacher is.

        Args:
            teacher: whose U-Net is copied.
            edits: name -> an example of the target prompt.
            timestep: the student's fixed one.

        Raises:
            TeacherError: if the teacher has no U-Net, or one that must be told more than a text.
        """
        if teacher.unet.config.addition_embed_type:
            raise TeacherError(
                f"{teacher.name} has a U-Net that must be told a pooled text and sizes besides, which this student "
                "cannot tell it: take a teacher of Stable Diffusion 1.x or 2.x, or another kind of student"
            )
        contexts = teacher.encode_prompt(list(edits.values())).prompt_embeds  # (K, T, D)
        own = {key: value for key, value in teacher.unet.config.items() if not key.startswith("_")}
        student: LatentTranslator = cls(own, list(edits), list(edits.values()), tuple(contexts.shape[1:]), timestep)
        student.unet.load_state_dict(teacher.unet.state_dict())  # copied into float32
        with torch.no_grad():
            student.unet.conv_out.weight.zero_()
            student.unet.conv_out.bias.zero_()
            student.contexts.copy_(contexts)
        return student.to(teacher.device)  # type: ignore[no-any-return]

    @property
    def edits(self) -> dict[str, str]:
        """Name -> an example of the target prompt, in the order of the edits' numbers."""
        return dict(zip(self.config.edit_names, self.config.edit_prompts, strict=True))

    def forward(self, latents: Tensor, edit: Tensor) -> Tensor:
        """The change that an edit makes.

        Args:
            latents: z_hat, float (N, C, h, w); any h and w, odd ones too.
            edit: int64 (N,), numbers of edits.

        Returns:
            delta, float (N, C, h, w): the edited latent is z_hat + delta.
        """
        contexts = self.contexts[edit]  # (N, T, D)
        timesteps = torch.full_like(edit, self.config.timestep)  # (N,)
        delta: Tensor = self.unet(latents, timesteps, encoder_hidden_states=contexts).sample  # (N, C, h, w)
        return delta
