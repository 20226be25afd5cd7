"""What differs between families of teachers: how a prompt becomes a Conditioning, how noise is added, and how one
call of the network becomes a prediction of that noise.

    family                     network        schedule                  the network reads
    Stable Diffusion 1.x, 2.x  U-Net          alpha_bar, epsilon or v   one text
    Stable Diffusion XL        U-Net          alpha_bar, epsilon or v   two texts, a pooled one, sizes in pixels
    Stable Diffusion 3         transformer    flow matching             two or three texts, a pooled one

Timesteps are the same everywhere, 0 to 999 from little noise to much. z are clean latents, eps the noise, z_t both.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from synth.errors import TeacherError
from synth.settings import Sampler
from synth.teacher.conditioning import Conditioning


class Family(ABC):
    """What the teacher needs of a diffusers pipeline."""

    pipeline_class: ClassVar[str]
    network_name: ClassVar[str] = "unet"
    network_class: ClassVar[str] = "UNet2DConditionModel"
    text_encoders: ClassVar[tuple[str, ...]]
    """Folders; each has its tokenizer beside it."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Text encoders that may be missing."""
    unused: ClassVar[tuple[str, ...]] = ("image_encoder", "feature_extractor")
    """Components that a folder may list and nothing here reads."""
    options: ClassVar[dict[str, Any]] = {}
    """Further arguments of the pipeline's `from_pretrained`."""
    half: ClassVar[torch.dtype] = torch.bfloat16
    """The half precision that `auto` means on a GPU."""
    sampler: ClassVar[Sampler] = "own"
    """What paints by default."""
    num_inference_steps: ClassVar[int] = 50
    guidance_scale: ClassVar[float] = 7.5

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.network = getattr(pipeline, self.network_name)
        self.size_multiple: int = pipeline.vae_scale_factor
        """The sides of an image must be multiples of it, in pixels."""

    @staticmethod
    @abstractmethod
    def check_scheduler(scheduler: Any) -> str | None:
        """Say what makes a scheduler unfit for this family; None if it is fit."""

    def scheduler(self, sampler: Sampler) -> Any:
        """The scheduler of a sampler, over the family's own schedule of noise."""
        import diffusers

        own = self.pipeline.scheduler
        if sampler == "own":
            return own
        kind: Any = diffusers.DPMSolverMultistepScheduler
        return kind.from_config(
            own.config, algorithm_type="dpmsolver++", solver_order=2, use_karras_sigmas=False, thresholding=False
        )

    @property
    def readers(self) -> list[tuple[Any, int]]:
        """Each tokenizer, with the maximum of tokens that its text encoder reads."""
        names = [name.replace("text_encoder", "tokenizer") for name in self.text_encoders]
        return [(getattr(self.pipeline, name), getattr(self.pipeline, name).model_max_length) for name in names]

    @abstractmethod
    def encode_prompt(self, prompts: list[str]) -> Conditioning:
        """Encode texts as the pipeline itself does; "" is the null text."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t of z and eps, all float (N, C, h, w), at int64 (N,)."""

    @abstractmethod
    def predict_noise(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """eps from z_t by one network call, float (N, C, h, w), in the precision of z_t."""


class StableDiffusion(Family):
    """1.x and 2.x, under a schedule of alpha_bar; the network predicts eps or v = sqrt(a) eps - sqrt(1 - a) z."""

    pipeline_class = "StableDiffusionPipeline"
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    sampler: ClassVar[Sampler] = "dpm++"
    num_inference_steps = 25
    half = torch.float16  # at guidance 25 bfloat16's rounding is 4 to 11 % of the score, float16's an eighth of it
    unused: ClassVar[tuple[str, ...]] = ("image_encoder",)  # the feature extractor belongs to the safety checker

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self.prediction_type: str = pipeline.scheduler.config.prediction_type
        self.alphas_cumprod: Tensor = pipeline.scheduler.alphas_cumprod.to(pipeline.device)  # alpha_bar, (1000,)

    @staticmethod
    def check_scheduler(scheduler: Any) -> str | None:
        """The family needs alpha_bar and a prediction of the noise or of v."""
        prediction_type = scheduler.config.get("prediction_type", "epsilon")
        if prediction_type not in ("epsilon", "v_prediction"):
            return f"predicts {prediction_type!r}: only epsilon and v_prediction are known"
        if not hasattr(scheduler, "alphas_cumprod"):
            return f"runs under {type(scheduler).__name__}, which has no alpha_bar: that schedule is not known here"
        return None

    def encode_prompt(self, prompts: list[str]) -> Conditioning:
        """The text encoder's last hidden states."""
        embeds, _ = self.pipeline.encode_prompt(prompts, self.network.device, 1, False)  # (N, T, D)
        return Conditioning(embeds.to(self.network.dtype))

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) eps, the forward process (paper, section 3)."""
        alpha_bar = self._alpha_bar(timesteps, latents)
        return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise

    def predict_noise(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's output, or, if it predicts v, eps = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) z_t."""
        output: Tensor = self.network(
            noisy_latents.to(self.network.dtype),
            timesteps,
            encoder_hidden_states=conditioning.prompt_embeds,
            added_cond_kwargs=self._added_conditions(noisy_latents, conditioning),
        ).sample.to(noisy_latents.dtype)
        if self.prediction_type == "epsilon":
            return output
        alpha_bar = self._alpha_bar(timesteps, noisy_latents)
        return alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * noisy_latents

    def _added_conditions(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Tensor] | None:
        return None

    def _alpha_bar(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return self.alphas_cumprod[timesteps][:, None, None, None].to(like.dtype)  # (N, 1, 1, 1)


class StableDiffusionXL(StableDiffusion):
    """XL: the same schedule; the U-Net also reads a pooled text and the image's sizes."""

    pipeline_class = "StableDiffusionXLPipeline"
    text_encoders = ("text_encoder", "text_encoder_2")
    half = torch.bfloat16
    sampler = "own"
    num_inference_steps = 50
    unused = ("image_encoder", "feature_extractor")
    options: ClassVar[dict[str, Any]] = {"add_watermarker": False}  # pixels must not depend on an installed package
    guidance_scale = 5.0

    def encode_prompt(self, prompts: list[str]) -> Conditioning:
        """Both encoders' penultimate hidden states, concatenated, and the second's pooled output. The null text is
        all zeros in a model that was trained so (`force_zeros_for_empty_prompt`)."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=self.network.device, do_classifier_free_guidance=False
        )  # (N, T, D), (N, P)
        if self.pipeline.config.force_zeros_for_empty_prompt:
            null = torch.tensor([not prompt for prompt in prompts], device=embeds.device)  # (N,)
            embeds = embeds.masked_fill(null[:, None, None], 0)
            pooled = pooled.masked_fill(null[:, None], 0)
        return Conditioning(embeds.to(self.network.dtype), pooled.to(self.network.dtype))

    def _added_conditions(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Tensor] | None:
        pooled, time_ids = conditioning.pooled_prompt_embeds, conditioning.time_ids
        assert pooled is not None
        if time_ids is None:
            height, width = (side * self.pipeline.vae_scale_factor for side in latents.shape[2:])
            time_ids = pooled.new_tensor([[height, width, 0, 0, height, width]]).expand(len(latents), -1)  # (N, 6)
        return {"text_embeds": pooled, "time_ids": time_ids}


class StableDiffusion3(Family):
    """3 and 3.5: a transformer under flow matching, which predicts the velocity v = eps - z.

    sigma = (t + 1) / 1000 is the noise's share, before any shift: a shift only chooses which sigmas a sampler visits.
    """

    pipeline_class = "StableDiffusion3Pipeline"
    network_name = "transformer"
    network_class = "SD3Transformer2DModel"
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    optional = ("text_encoder_3",)  # T5: larger than all else together, and the model was trained to work without it
    num_inference_steps = 28
    guidance_scale = 7.0

    _T5_TOKENS = 256  # the pipeline's own default; its tokenizer would take more

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self.size_multiple *= self.network.config.patch_size

    def scheduler(self, sampler: Sampler) -> Any:
        """See `Family.scheduler`.

        Raises:
            TeacherError: for DPM-Solver++, whose schedule is not that of flow matching.
        """
        if sampler != "own":
            raise TeacherError("Stable Diffusion 3 paints with its own sampler: set scenes.sampler=own")
        return super().scheduler(sampler)

    @staticmethod
    def check_scheduler(scheduler: Any) -> str | None:
        """The family needs flow matching."""
        name = type(scheduler).__name__
        if "FlowMatch" not in name:
            return f"runs under {name}, and Stable Diffusion 3 needs flow matching"
        return None

    @property
    def readers(self) -> list[tuple[Any, int]]:
        """Both CLIP tokenizers, and T5's where there is one."""
        clip = self.pipeline.tokenizer_max_length
        readers = [(self.pipeline.tokenizer, clip), (self.pipeline.tokenizer_2, clip)]
        if self.pipeline.text_encoder_3 is not None:
            readers.append((self.pipeline.tokenizer_3, self._T5_TOKENS))
        return readers

    def encode_prompt(self, prompts: list[str]) -> Conditioning:
        """Both CLIPs' hidden states side by side, then T5's or zeros; both CLIPs' pooled outputs."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompts,
            prompt_2=None,
            prompt_3=None,
            device=self.network.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._T5_TOKENS,
        )  # (N, T, D), (N, P)
        return Conditioning(embeds.to(self.network.dtype), pooled.to(self.network.dtype))

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = (1 - sigma) z + sigma eps."""
        sigma = self._sigma(timesteps, latents)
        return (1 - sigma) * latents + sigma * noise

    def predict_noise(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """eps = z_t + (1 - sigma) v."""
        v: Tensor = self.network(
            noisy_latents.to(self.network.dtype),
            timestep=timesteps + 1,  # 1000 sigma: the transformer counts from 1
            encoder_hidden_states=conditioning.prompt_embeds,
            pooled_projections=conditioning.pooled_prompt_embeds,
        ).sample.to(noisy_latents.dtype)
        return noisy_latents + (1 - self._sigma(timesteps, noisy_latents)) * v

    def _sigma(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return ((timesteps.double() + 1) / 1000)[:, None, None, None].to(like.dtype)  # (N, 1, 1, 1)


FAMILIES: dict[str, type[Family]] = {
    family.pipeline_class: family for family in (StableDiffusion, StableDiffusionXL, StableDiffusion3)
}
