"""The teacher: a frozen text-to-image diffusion model, seen as the few functions that the scores need.

Any folder or Hub id that diffusers opens as a Stable Diffusion pipeline (1.x and 2.x, noise or v prediction) will do.
Nothing else in the project asks which model it has.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from synth.errors import TeacherError
from synth.settings import Settings, TeacherSettings

MINIATURE = Path(__file__).parent / "miniature" / "weights"
"""Where a checkout keeps the miniature; the environment's DISTILLERY_MINIATURE names another folder."""

UNKNOWN_LICENCE = "unknown: see the teacher's own model card"

_FULL_SIZE = 100_000_000  # parameters of a U-Net that nobody runs on a CPU by choice
_FEW_STEPS = re.compile(r"turbo|lightning|hyper|schnell|(?<![a-z])lcm(?![a-z])", re.IGNORECASE)
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")  # what pixels and scores depend on


class TeacherDefaults(Settings):
    """What a recipe may leave to its teacher, from `distillery.json` in its folder or from its family."""

    image_size: int
    num_inference_steps: int
    guidance_scale: float
    licence: str = UNKNOWN_LICENCE


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

    def __init__(
        self, pipeline: Any, name: str, fingerprint: str, defaults: TeacherDefaults, few_steps: bool = False
    ) -> None:
        self.pipeline = pipeline
        self.name = name
        self.fingerprint = fingerprint
        self.defaults = defaults
        self.few_steps = few_steps  # distilled to paint in a few steps: its noise predictions are no score
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

        device = _device(settings.device)
        try:
            folder = _folder(settings.id, settings.revision, weights=False)
            config = _check(settings.id, folder)
            full_size = _num_parameters(config) > _FULL_SIZE
            if full_size and device.type == "cpu" and not settings.allow_cpu:
                raise TeacherError(
                    f"{settings.id} is a full-size model and there is no GPU: set teacher.allow_cpu=true to wait for "
                    "hours, or try the miniature first (--teacher miniature)"
                )
            folder = _folder(settings.id, settings.revision, weights=True)
            _check_weights(settings.id, folder)
            dtype = torch.float32 if device.type == "cpu" or not full_size else torch.bfloat16
            if settings.dtype != "auto":
                dtype = getattr(torch, settings.dtype)
            pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True
            ).to(device)
        except TeacherError:
            raise
        except Exception as error:
            raise explain(settings.id, error) from error
        few_steps = _paints_in_few_steps(settings.id, folder)
        defaults = _defaults(settings.id, folder, few_steps)
        return cls(pipeline, settings.id, _fingerprint(folder, dtype), defaults, few_steps)

    def require_scorer(self) -> None:
        """Refuse a teacher that can paint but not teach.

        Raises:
            TeacherError: for a turbo, lightning or consistency model: it was distilled to jump to an image in a few
                steps, and what it predicts in between is no longer the noise.
        """
        if self.few_steps:
            raise TeacherError(
                f"{self.name} paints in a few steps and cannot serve as a scorer: "
                "distil from the model that it was made from"
            )

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
        self.check_prompts(prompts)
        tokenizer = self.pipeline.tokenizer
        ids = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
        ).input_ids  # (N, T)
        return Conditioning(self.pipeline.text_encoder(ids.to(self.device))[0].to(self.dtype))  # (N, T, D)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse what would be cut silently.

        Raises:
            TeacherError: for a prompt that is longer than the text encoder reads.
        """
        tokenizer = self.pipeline.tokenizer
        most = tokenizer.model_max_length
        tokens = tokenizer(list(prompts), padding=False, verbose=False).input_ids
        for prompt, ids in zip(prompts, tokens, strict=True):
            if len(ids) > most:
                raise TeacherError(
                    f"the prompt {prompt[:40]!r}... has {len(ids)} tokens and {self.name} reads {most}: shorten it"
                )

    @property
    def null(self) -> Conditioning:
        """The null text's conditioning, (1, T, D)."""
        if self._null is None:
            self._null = self.encode_prompt([""])
        return self._null

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """float (N, 3, H, W) in [-1, 1] -> latents (N, C, h, w): the posterior's mean, scaled."""
        shift, scale = self._shift_and_scale()
        mean: Tensor = self.vae.encode(images.to(self.device, self.vae.dtype)).latent_dist.mean
        return (mean - shift) * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """latents (N, C, h, w) -> float (N, 3, H, W), about [-1, 1], not clamped."""
        shift, scale = self._shift_and_scale()
        images: Tensor = self.vae.decode(latents.to(self.device, self.vae.dtype) / scale + shift).sample
        return images

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) eps, the forward process (paper, section 3)."""
        alpha_bar = self._alpha_bar(timesteps, latents)
        return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise

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
            TeacherError: if the teacher paints in a few steps (`require_scorer`).
        """
        self.require_scorer()
        if isinstance(guidance_scale, Tensor):
            guidance_scale = guidance_scale.to(noisy_latents)[:, None, None, None]  # (N, 1, 1, 1)
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

    def _shift_and_scale(self) -> tuple[float, float]:
        return getattr(self.vae.config, "shift_factor", None) or 0.0, self.vae.config.scaling_factor

    def _alpha_bar(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return self.alphas_cumprod[timesteps][:, None, None, None].to(like.dtype)


def explain(name: str, error: Exception) -> TeacherError:
    """What went wrong when a model could not be opened, and what to do."""
    from httpx import TransportError
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return TeacherError(
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, then run `hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return TeacherError(
            f"there is no model {name!r}, neither a folder nor on the Hub (ids move: look it up); "
            "for a private one, run `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return TeacherError(f"{name} has no such revision: check teacher.revision")
    if isinstance(error, errors.LocalEntryNotFoundError | TransportError | ConnectionError):
        return TeacherError(
            f"{name} is not on this machine and the Hub cannot be reached: "
            "connect, or name a folder in diffusers' format"
        )
    if isinstance(error, errors.HFValidationError):
        return TeacherError(f"{name!r} is neither a folder nor a Hub id (owner/name)")
    reason = " ".join(str(error).split()) or type(error).__name__
    return TeacherError(f"{name} cannot be opened as a Stable Diffusion pipeline: {reason}")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise TeacherError(f"there is no device {name!r}: use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TeacherError(
            "teacher.device is cuda, but PyTorch sees no GPU: use auto or cpu, or install a CUDA build of torch"
        )
    return device


def _folder(name: str, revision: str | None, weights: bool) -> Path:
    """The model's files on this machine, fetched from the Hub if need be: those that are used, and no others.
    Without `weights` the small ones alone, so that a model can be refused before gigabytes come down."""
    if name == "miniature":
        folder = Path(os.environ.get("DISTILLERY_MINIATURE", MINIATURE))
        if not folder.is_dir():
            raise TeacherError(
                f"the miniature's weights are not at {folder}: train them with synth/miniature/train.py "
                "(the README says how), or name a folder or a Hub id with --teacher"
            )
        return folder
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "README.md"]
    if weights:
        patterns += [f"{part}/*.safetensors" for part in ("unet", "vae", "text_encoder", "safety_checker")]
    ignored = ["*.fp16.*", "*.non_ema.*"]
    return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))


def _check(name: str, folder: Path) -> dict[str, Any]:
    """Refuse what cannot work, by the small files alone. Returns the U-Net's config."""
    if not (folder / "model_index.json").exists():
        raise TeacherError(f"{name} has no model_index.json: it is no pipeline in diffusers' format")
    kind = _read_json(folder / "model_index.json").get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise TeacherError(f"{name} is a {kind}; this version distils from Stable Diffusion 1.x and 2.x")
    unet, vae, scheduler = (
        _read_json(folder / part)
        for part in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
    )
    if unet["in_channels"] != vae["latent_channels"]:
        raise TeacherError(
            f"{name} is no text-to-image model: its U-Net takes {unet['in_channels']} channels and its VAE makes "
            f"{vae['latent_channels']} (an inpainting or instruction model does that)"
        )
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise TeacherError(f"{name} predicts {prediction!r}: only epsilon and v_prediction are known")
    return unet


def _check_weights(name: str, folder: Path) -> None:
    for part in ("unet", "vae", "text_encoder"):
        if not any((folder / part).glob("*.safetensors")):
            raise TeacherError(f"{name} has no safetensors in {part}/: convert it, or name a revision that has them")


def _num_parameters(unet_config: dict[str, Any]) -> int:
    """Of a U-Net, from its config alone: built without memory behind it."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(unet_config)
    return sum(parameter.numel() for parameter in unet.parameters())


def _paints_in_few_steps(name: str, folder: Path) -> bool:
    """Turbo, lightning and consistency models give themselves away by name, scheduler or guidance embedding."""
    index = _read_json(folder / "model_index.json")
    names = (name.rsplit("/", 1)[-1], str(index.get("_name_or_path", "")).rsplit("/", 1)[-1])
    return (
        any(_FEW_STEPS.search(each) for each in names)
        or index["scheduler"][1] in ("LCMScheduler", "TCDScheduler")
        or _read_json(folder / "unet/config.json").get("time_cond_proj_dim") is not None
    )


def _fingerprint(folder: Path, dtype: torch.dtype) -> str:
    """Of the configs and the weights themselves, so that no stale name can pass, and of the precision they run in."""
    digest = hashlib.sha256(str(dtype).encode())
    for part in sorted(_PARTS):
        for path in sorted((folder / part).iterdir()):
            if path.suffix in (".json", ".txt", ".safetensors"):
                digest.update(f"{part}/{path.name}".encode())
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _defaults(name: str, folder: Path, few_steps: bool) -> TeacherDefaults:
    own = folder / "distillery.json"
    if own.exists():
        try:
            return TeacherDefaults.model_validate_json(own.read_text())
        except ValidationError as error:
            first = error.errors()[0]
            raise TeacherError(f"{own}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    unet, vae = _read_json(folder / "unet/config.json"), _read_json(folder / "vae/config.json")
    if not isinstance(unet.get("sample_size"), int):
        raise TeacherError(
            f"{name} does not say its image size: put image_size, num_inference_steps and guidance_scale in {own}"
        )
    return TeacherDefaults(
        image_size=unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1),
        num_inference_steps=4 if few_steps else 50,
        guidance_scale=1.0 if few_steps else 7.5,
        licence=_licence(folder / "README.md"),
    )


def _licence(card: Path) -> str:
    """From the front matter of a Hub model card."""
    from huggingface_hub import metadata_load

    metadata = (metadata_load(card) if card.exists() else None) or {}
    return str(metadata.get("license_name") or metadata.get("license") or UNKNOWN_LICENCE)


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
