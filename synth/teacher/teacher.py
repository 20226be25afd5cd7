"""The teacher: a frozen text-to-image diffusion model behind the few functions that the scores need.

Any folder or Hub id that diffusers opens as a Stable Diffusion pipeline (1.x, 2.x, XL, 3) will do. `families` holds
what differs between them: nothing else in the project asks which model it has.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from synth.errors import TeacherError
from synth.settings import TeacherSettings
from synth.teacher import hub
from synth.teacher.conditioning import Conditioning
from synth.teacher.devices import choose_device, choose_dtype, unused_gpu
from synth.teacher.explain import explain
from synth.teacher.families import FAMILIES, Family
from synth.teacher.few_steps import require_scorer
from synth.teacher.hub import UNKNOWN_LICENCE, TeacherDefaults

__all__ = ["UNKNOWN_LICENCE", "Conditioning", "Teacher", "TeacherDefaults"]

_FULL_SIZE = 100_000_000  # parameters; nobody runs a larger network on a CPU by choice


class Teacher:
    """A frozen diffusion model.

    Latents are float (N, C, h, w), h = H / 8 and w = W / 8, of about unit variance: the VAE's scale and shift are
    inside. Timesteps are int64 (N,), 0 to 999 of the model's own training schedule; for flow matching
    sigma = (t + 1) / 1000, before any shift.
    """

    def __init__(
        self, pipeline: Any, name: str, fingerprint: str, defaults: TeacherDefaults, few_steps: bool = False
    ) -> None:
        self.pipeline = pipeline
        self.name = name
        self.fingerprint = fingerprint
        self.defaults = defaults
        self.few_steps = few_steps  # distilled to paint in a few steps: it cannot score
        self.max_batch_size: int | None = None  # lowered when memory runs out
        self.family: Family = FAMILIES[type(pipeline).__name__](pipeline)
        self.network = self.family.network
        for component in pipeline.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval().requires_grad_(False)
        self.vae = pipeline.vae
        overflows = self.vae.dtype == torch.float16 and self.vae.config.force_upcast
        if overflows or (self.vae.dtype != torch.float32 and self.device.type == "cuda"):
            # It may overflow in float16, and the latents that a training starts from are worth a full precision. The
            # pipeline keeps its own, and converts it while it paints.
            self.vae = deepcopy(self.vae).float()
        if self.device.type == "cuda":
            if self.family.network_name == "unet":
                self.network.to(memory_format=torch.channels_last)  # what a GPU's convolutions compute in
            pipeline.vae.to(memory_format=torch.channels_last)
            for vae in (pipeline.vae, self.vae):  # one image at a time: the U-Net alone fills a batch
                vae.enable_slicing()
        self.vae_scale_factor: int = pipeline.vae_scale_factor
        self.size_multiple = self.family.size_multiple
        self.latent_channels: int = self.network.config.in_channels
        self._null: Conditioning | None = None
        pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def load(cls, settings: TeacherSettings) -> "Teacher":
        """Open a teacher by folder or Hub id.

        Raises:
            TeacherError: if it is missing, gated, without safetensors, not a text-to-image Stable Diffusion, or
                too large for a CPU.
        """
        import diffusers

        device = choose_device(settings.device)
        try:
            model = hub.find(settings.id, settings.revision)
            model = replace(model, without=() if settings.t5 else model.family.optional)
            full_size = model.num_parameters() > _FULL_SIZE
            if full_size and device.type == "cpu" and not settings.allow_cpu:
                if unused := unused_gpu():
                    raise TeacherError(
                        f"{settings.id} is a full-size model and needs a GPU; {unused}, or set "
                        "teacher.allow_cpu=true to wait for hours"
                    )
                raise TeacherError(
                    f"{settings.id} is a full-size model and there is no GPU: set teacher.allow_cpu=true to wait for "
                    "hours, or try the miniature first (--teacher miniature)"
                )
            model.fetch().check_files()
            defaults = model.defaults()
            dtype = choose_dtype(settings, model.family, full_size, device)
            pipeline = getattr(diffusers, model.family.pipeline_class).from_pretrained(
                model.path,
                torch_dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                **dict.fromkeys(model.absent()),
                **model.family.options,
            )
            pipeline.to(device)
        except TeacherError:
            raise
        except Exception as error:
            raise explain(settings.id, error) from error
        return cls(pipeline, settings.id, model.fingerprint(dtype), defaults, model.few_steps)

    def require_scorer(self) -> None:
        """Refuse a teacher that can paint but not teach.

        Raises:
            TeacherError: for a turbo, lightning or consistency model: it was distilled to jump to an image in a few
                steps, and what it predicts on the way is no longer the noise.
        """
        require_scorer(self.name, self.few_steps)

    @property
    def unet(self) -> Any:
        """The network, if it is a U-Net.

        Raises:
            TeacherError: if it is not.
        """
        if self.family.network_name != "unet":
            raise TeacherError(
                f"{self.name} has no U-Net (its network is a {self.family.network_class}): "
                "take a teacher of Stable Diffusion 1.x or 2.x, or training.student=compact"
            )
        return self.network

    @property
    def is_full_size(self) -> bool:
        """Whether the network is of the size that nobody runs on a CPU by choice."""
        return int(sum(weight.numel() for weight in self.network.parameters())) > _FULL_SIZE

    @property
    def device(self) -> torch.device:
        """The networks' device."""
        return torch.device(self.network.device)

    @property
    def dtype(self) -> torch.dtype:
        """The networks' precision."""
        dtype: torch.dtype = self.network.dtype
        return dtype

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Conditioning:
        """Encode N texts for the network; "" is the null text.

        Raises:
            TeacherError: for a prompt longer than the text encoders read: none is cut silently.
        """
        self.check_prompts(prompts)
        self.unpark_encoders()
        # In the encoders' own precision even under a caller's autocast: `null` is kept, and must not depend on
        # whether a painting or a training asks for it first.
        with torch.autocast(self.device.type, enabled=False):
            return self.family.encode_prompt(prompts)

    def check_size(self, height: int, width: int) -> None:
        """Refuse images that the networks cannot take.

        Raises:
            TeacherError: if a side is not a multiple of `size_multiple` pixels.
        """
        if height % self.size_multiple or width % self.size_multiple:
            raise TeacherError(
                f"{self.name} takes images whose sides are multiples of {self.size_multiple} pixels, "
                f"and these are {width} x {height}"
            )

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that would be cut silently.

        Raises:
            TeacherError: for a prompt longer than one of the text encoders reads.
        """
        for prompt, length in self.too_long(prompts).items():
            raise TeacherError(f"the prompt {prompt[:40]!r}... has {length}: shorten it")

    def too_long(self, prompts: Sequence[str]) -> dict[str, str]:
        """Return the prompts that are longer than one of the text encoders reads, each with its length in words."""
        found: dict[str, str] = {}
        for tokenizer, max_tokens in self.family.readers if prompts else ():  # tokenizers take no empty list
            tokens = tokenizer(list(prompts), padding=False, verbose=False).input_ids
            for prompt, ids in zip(prompts, tokens, strict=True):
                if len(ids) > max_tokens:
                    found.setdefault(prompt, f"{len(ids)} tokens and {self.name} reads {max_tokens}")
        return found

    def park_encoders(self) -> None:
        """Move to the CPU what only texts and paintings need, and return its memory to the GPU.

        It comes back with the next prompt or painting.
        """
        _ = self.null  # every guided prediction needs it
        for module in self._encoders():
            module.to("cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def unpark_encoders(self) -> None:
        """Take back what `park_encoders` moved."""
        for module in self._encoders():
            if module.device != self.device:
                module.to(self.device)

    def _encoders(self) -> list[Any]:
        """The text encoders, and the safety checker where there is one."""
        names = (*self.family.text_encoders, "safety_checker")
        modules = (getattr(self.pipeline, name, None) for name in names)
        return [module for module in modules if isinstance(module, torch.nn.Module)]

    @property
    def null(self) -> Conditioning:
        """The null text's conditioning, (1, T, D)."""
        if self._null is None:
            self._null = self.encode_prompt([""])
        return self._null

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """float (N, 3, H, W) in [-1, 1] -> latents (N, C, h, w): the posterior's mean, scaled."""
        return self.encode_with_gradient(images)

    def encode_with_gradient(self, images: Tensor) -> Tensor:
        """As `encode`, and a gradient with respect to the latents reaches the images."""
        shift, scale = self._shift_and_scale()
        output = self.vae.encode(images.to(self.device, self.vae.dtype))
        # An AutoencoderTiny has no posterior: it returns the latents themselves.
        mean: Tensor = output.latent_dist.mean if hasattr(output, "latent_dist") else output.latents
        return (mean - shift) * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents (N, C, h, w) -> float (N, 3, H, W), about [-1, 1], not clamped."""
        shift, scale = self._shift_and_scale()
        images: Tensor = self.vae.decode(latents.to(self.device, self.vae.dtype) / scale + shift).sample
        return images

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t, the forward process (paper, section 3): float (N, C, h, w) of latents and noise, at int64 (N,)."""
        return self.family.add_noise(latents, noise, timesteps)

    @torch.no_grad()
    def predict_noise(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        guidance_scale: float | Tensor,
    ) -> Tensor:
        """Classifier-free-guided noise, eps_null + omega (eps_y - eps_null), with both halves in one network call.

        Args:
            noisy_latents: float (N, C, h, w).
            timesteps: int64 (N,).
            conditioning: of N texts.
            guidance_scale: omega, 1 or more; at 1 the text's own prediction. One for all, or float (N,).

        Returns:
            float (N, C, h, w), in the precision of `noisy_latents`.

        Raises:
            TeacherError: if the teacher paints in a few steps (`require_scorer`), or takes no latents of this size.
        """
        self.require_scorer()
        if isinstance(guidance_scale, Tensor):
            guidance_scale = guidance_scale.to(noisy_latents)[:, None, None, None]  # (N, 1, 1, 1)
        null = replace(self.null.expand(len(noisy_latents)), time_ids=conditioning.time_ids)
        texts = Conditioning.cat([null, conditioning])
        z_t = torch.cat([noisy_latents] * 2)  # (2N, C, h, w)
        t = torch.cat([timesteps] * 2)  # (2N,)
        eps_null, eps_y = self.predict_noise_unguided(z_t, t, texts).chunk(2)
        return eps_null + guidance_scale * (eps_y - eps_null)

    @torch.no_grad()
    def predict_noise_unguided(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict noise by one network call without guidance, whatever the network itself predicts."""
        height, width = noisy_latents.shape[2:]
        self.check_size(height * self.vae_scale_factor, width * self.vae_scale_factor)
        return self.family.predict_noise(noisy_latents, timesteps, conditioning)

    def _shift_and_scale(self) -> tuple[float, float]:
        return getattr(self.vae.config, "shift_factor", None) or 0.0, self.vae.config.scaling_factor
