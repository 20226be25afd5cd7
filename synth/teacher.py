"""The teacher: a frozen text-to-image diffusion model, seen as the few functions that the scores need.

Any folder or Hub id that diffusers opens as a Stable Diffusion pipeline (1.x and 2.x, noise or v prediction) will do.
Nothing else in the project asks which model it has.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synth.errors import TeacherError
from synth.settings import Settings, TeacherSettings

MINIATURE = Path(__file__).parent / "miniature" / "weights"
_FULL_SIZE = 100_000_000  # parameters of a U-Net that nobody runs on a CPU by choice
_FAMILIES = {768: (512, 50, 7.5), 1024: (768, 50, 7.5)}  # by width of the text embedding: SD 1.x, SD 2.x


class TeacherDefaults(Settings):
    """What a recipe may leave to its teacher, from `distillery.json` in its folder or from its family."""

    image_size: int
    num_inference_steps: int
    guidance_scale: float
    licence: str = "unknown: see the teacher's own model card"


@dataclass(frozen=True)
class Conditioning:
    """What the network is told about the text: `prompt_embeds` float (N, T, D)."""

    prompt_embeds: Tensor

    def __getitem__(self, index: Any) -> "Conditioning":
        return Conditioning(self.prompt_embeds[index])

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def expand(self, num: int) -> "Conditioning":
        """One text for `num` samples."""
        return Conditioning(self.prompt_embeds.expand(num, -1, -1))

    @staticmethod
    def cat(parts: "list[Conditioning]") -> "Conditioning":
        """Along the batch."""
        return Conditioning(torch.cat([part.prompt_embeds for part in parts]))


class Teacher:
    """A frozen diffusion model.

    Latents are float (N, C, h, w), h = H / 8 and w = W / 8, of about unit variance: the VAE's scale and shift are
    inside. Timesteps are int64 (N,), 0 to 999 of the model's own training schedule.
    """

    def __init__(self, pipeline: Any, name: str, fingerprint: str, defaults: TeacherDefaults) -> None:
        self.pipeline = pipeline
        self.name = name
        self.fingerprint = fingerprint
        self.defaults = defaults
        self.unet, self.vae = pipeline.unet, pipeline.vae
        for network in (self.unet, self.vae, pipeline.text_encoder):
            network.eval().requires_grad_(False)
        self.vae_scale_factor: int = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.latent_channels: int = self.unet.config.in_channels
        self.prediction_type: str = pipeline.scheduler.config.prediction_type
        self.alphas_cumprod: Tensor = pipeline.scheduler.alphas_cumprod.to(self.device)  # alpha_bar, (1000,)
        self._null: Conditioning | None = None
        pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def load(cls, settings: TeacherSettings) -> "Teacher":
        """Open a teacher by folder or Hub id.

        Raises:
            TeacherError: if it is not there, gated, without safetensors, no Stable Diffusion, or too large for a CPU.
        """
        import diffusers

        source = str(MINIATURE) if settings.id == "miniature" else settings.id
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        if settings.dtype != "auto":
            dtype = getattr(torch, settings.dtype)
        try:
            folder = _folder(source, settings.revision)
            _check(settings.id, folder, device, settings.allow_cpu)
            pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True
            )
        except TeacherError:
            raise
        except Exception as error:
            raise explain(settings.id, error) from error
        return cls(pipeline.to(device), settings.id, _fingerprint(settings, folder), _defaults(settings.id, folder))

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return torch.device(self.unet.device)

    @property
    def dtype(self) -> torch.dtype:
        """The networks' precision."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Conditioning:
        """The text encoder's last hidden states; "" is the null text.

        Raises:
            TeacherError: for a prompt that is longer than the text encoder reads; nothing is cut silently.
        """
        tokenizer = self.pipeline.tokenizer
        most = tokenizer.model_max_length
        tokens = tokenizer(prompts, padding=False).input_ids
        for prompt, ids in zip(prompts, tokens, strict=True):
            if len(ids) > most:
                raise TeacherError(
                    f"the prompt {prompt[:40]!r}... has {len(ids)} tokens and {self.name} reads {most}: shorten it"
                )
        ids = tokenizer(prompts, padding="max_length", max_length=most, return_tensors="pt").input_ids
        return Conditioning(self.pipeline.text_encoder(ids.to(self.device))[0].to(self.dtype))

    @property
    def null(self) -> Conditioning:
        """The null text's conditioning, (1, T, D)."""
        if self._null is None:
            self._null = self.encode_prompt([""])
        return self._null

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """float (N, 3, H, W) in [-1, 1] -> latents (N, C, h, w): the posterior's mean, scaled."""
        latents: Tensor = self.vae.encode(images.to(self.device, self.vae.dtype)).latent_dist.mean
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return (latents - shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents (N, C, h, w) -> float (N, 3, H, W), about [-1, 1], not clamped."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        images: Tensor = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor + shift).sample
        return images

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) eps, the forward process (paper, section 3)."""
        alpha_bar = self._alpha_bar(timesteps, latents)
        return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise

    @torch.no_grad()
    def predict_noise(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance_scale: float
    ) -> Tensor:
        """Classifier-free-guided noise, eps_null + omega (eps_y - eps_null), with both halves in one network call.

        Args:
            noisy_latents: float (N, C, h, w).
            timesteps: int64 (N,).
            conditioning: of N texts.
            guidance_scale: omega, 1 or more; at 1 the text's own prediction.

        Returns:
            float (N, C, h, w), in the precision of `noisy_latents`.
        """
        texts = Conditioning.cat([self.null.expand(len(noisy_latents)), conditioning])
        z_t, t = torch.cat([noisy_latents] * 2), torch.cat([timesteps] * 2)  # (2N, C, h, w), (2N,)
        eps_null, eps_y = self.predict_noise_unguided(z_t, t, texts).chunk(2)
        return eps_null + guidance_scale * (eps_y - eps_null)

    @torch.no_grad()
    def predict_noise_unguided(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """One network call as it is; a v prediction is turned into noise: eps = sqrt(a) v + sqrt(1 - a) z_t."""
        output: Tensor = self.unet(
            noisy_latents.to(self.dtype), timesteps, encoder_hidden_states=conditioning.prompt_embeds
        ).sample.to(noisy_latents.dtype)
        if self.prediction_type == "epsilon":
            return output
        alpha_bar = self._alpha_bar(timesteps, noisy_latents)
        return alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * noisy_latents

    def _alpha_bar(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return self.alphas_cumprod[timesteps][:, None, None, None].to(like.dtype)


def explain(name: str, error: Exception) -> TeacherError:
    """What went wrong when a model could not be opened, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return TeacherError(
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, then run `hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return TeacherError(
            f"there is no model {name!r}, neither a folder nor on the Hub; for a private one, `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return TeacherError(f"{name} has no such revision: check teacher.revision")
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError)):
        return TeacherError(
            f"{name} is not on this machine and the Hub cannot be reached: connect, or name a folder in diffusers' format"
        )
    if isinstance(error, errors.HFValidationError):
        return TeacherError(f"{name!r} is neither a folder nor a Hub id (owner/name)")
    return TeacherError(f"{name} cannot be opened as a Stable Diffusion pipeline: {str(error).splitlines()[0]}")


def _folder(source: str, revision: str | None) -> Path:
    """The model's files on this machine, fetched from the Hub if need be: the parts that are used, and no others."""
    if Path(source).is_dir():
        return Path(source)
    if source == str(MINIATURE):
        raise TeacherError("the miniature's weights are not here: they come with a checkout, not with the wheel")
    from huggingface_hub import snapshot_download

    parts = ("*.json", "*.txt", "unet/*.safetensors", "vae/*.safetensors", "text_encoder/*.safetensors")
    ignored = ("*.fp16.safetensors", "*.non_ema.safetensors", "safety_checker/*")
    return Path(
        snapshot_download(source, revision=revision, allow_patterns=list(parts), ignore_patterns=list(ignored))
    )


def _check(name: str, folder: Path, device: str, allow_cpu: bool) -> None:
    """Refuse what cannot work before anything large is read."""
    index = folder / "model_index.json"
    if not index.exists():
        raise TeacherError(f"{name} has no model_index.json: it is no folder in diffusers' format")
    kind = json.loads(index.read_text())["_class_name"]
    if kind != "StableDiffusionPipeline":
        raise TeacherError(f"{name} is a {kind}; this version distils from Stable Diffusion 1.x and 2.x")
    for part in ("unet", "vae", "text_encoder"):
        if not any((folder / part).glob("*.safetensors")):
            raise TeacherError(f"{name} has no safetensors in {part}/: convert it, or name a revision that has them")
    size = sum(path.stat().st_size for path in (folder / "unet").glob("*.safetensors"))
    if device == "cpu" and size > 2 * _FULL_SIZE and not allow_cpu:
        raise TeacherError(
            f"{name} is a full-size model and there is no GPU: set teacher.allow_cpu=true to wait for hours, "
            "or try the miniature first (--teacher miniature)"
        )


def _fingerprint(settings: TeacherSettings, folder: Path) -> str:
    """Of the configs and the weights themselves, so that no stale name can pass."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".txt", ".safetensors") and path.parent.name in (
            "unet",
            "vae",
            "text_encoder",
            "tokenizer",
        ):
            digest.update(path.relative_to(folder).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(settings.dtype.encode())
    return digest.hexdigest()[:16]


def _defaults(name: str, folder: Path) -> TeacherDefaults:
    own = folder / "distillery.json"
    if own.exists():
        return TeacherDefaults.model_validate_json(own.read_text())
    config = json.loads((folder / "unet" / "config.json").read_text())
    family = _FAMILIES.get(config["cross_attention_dim"])
    if family is None:
        raise TeacherError(
            f"{name} is of no known family: put image_size, num_inference_steps and guidance_scale in {folder / 'distillery.json'}"
        )
    image_size, num_inference_steps, guidance_scale = family
    image_size = config.get("sample_size", image_size // 8) * 8
    return TeacherDefaults(
        image_size=image_size, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
    )
