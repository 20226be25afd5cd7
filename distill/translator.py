"""The student: one network that makes all edits of a recipe, in one pass, on latents."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from synth.teacher import Teacher


class LatentTranslator(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """z = z_hat + delta(z_hat, edit).

    The network is a copy of the teacher's own U-Net, run at one fixed timestep, whose last layer starts at zero: an
    untrained student changes nothing. Each edit is a learned context that starts from its target text's embedding;
    at inference there is no text encoder and no prompt.

    Args:
        unet_config: the teacher's U-Net's config.
        edits: each edit's name and the text its context started from.
        num_tokens: length T of a context.
        timestep: where the U-Net runs, 0 to 999.
    """

    @register_to_config
    def __init__(
        self, unet_config: dict[str, Any], edits: dict[str, str], num_tokens: int, timestep: int = 100
    ) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel.from_config(unet_config)
        self.contexts = nn.Parameter(torch.zeros(len(edits), num_tokens, self.unet.config.cross_attention_dim))
        self.timestep = timestep
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    @classmethod
    def from_teacher(cls, teacher: Teacher, edits: dict[str, str], timestep: int = 100) -> "LatentTranslator":
        """A student that is about to learn `edits`: name -> a prompt that describes the result."""
        contexts = teacher.encode_prompt(list(edits.values())).prompt_embeds.float()
        config = {key: value for key, value in teacher.unet.config.items() if not key.startswith("_")}
        student = cls(config, edits, contexts.shape[1], timestep)
        weights = {key: value.float() for key, value in teacher.unet.state_dict().items()}
        weights["conv_out.weight"] = torch.zeros_like(weights["conv_out.weight"])
        weights["conv_out.bias"] = torch.zeros_like(weights["conv_out.bias"])
        student.unet.load_state_dict(weights)
        student.contexts.data.copy_(contexts)
        return student.to(teacher.device)

    @property
    def edits(self) -> dict[str, str]:
        """Name -> prompt, in the order of the edits' numbers."""
        return dict(self.config.edits)

    def forward(self, latents: Tensor, edit: Tensor) -> Tensor:
        """delta.

        Args:
            latents: float (N, C, h, w), the reference, any h and w.
            edit: int64 (N,), each sample's edit by number.

        Returns:
            float (N, C, h, w), to be added to the latents.
        """
        context = self.contexts[edit]  # (N, T, D)
        delta: Tensor = self.unet(latents, self.timestep, encoder_hidden_states=context).sample
        return delta
