"""A teacher that paints noise at no cost, for tests and benchmarks of the code around the painting."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from synth.teacher.hub import TeacherDefaults


class NoisePainter:
    """Has what `synth.dataset.building` needs of a teacher, and paints noise of 16 x 16 px."""

    name = "nobody"
    fingerprint = "0"
    dtype = torch.float32
    device = torch.device("cpu")
    defaults = TeacherDefaults(image_size=16, num_inference_steps=1, guidance_scale=1.0)
    max_batch_size = None
    family = SimpleNamespace(scheduler=lambda sampler: None)

    def __init__(self) -> None:
        self.pipeline = self

    def check_prompts(self, prompts: list[str]) -> None:
        """Accept every prompt."""

    def check_size(self, height: int, width: int) -> None:
        """Accept every size."""

    def unpark_encoders(self) -> None:
        """It has none."""

    def __call__(self, prompts: list[str], generator: list[torch.Generator], **_: Any) -> Any:
        """Paint noise from each image's own seed."""
        images = [np.random.default_rng(each.initial_seed()).random((16, 16, 3)) for each in generator]
        return SimpleNamespace(images=np.stack(images), nsfw_content_detected=None)

    @staticmethod
    def numpy_to_pil(images: np.ndarray) -> list[Image.Image]:
        """Convert as diffusers' pipelines do."""
        return [Image.fromarray((image * 255).astype(np.uint8)) for image in images]
