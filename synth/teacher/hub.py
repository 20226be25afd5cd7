"""Where a teacher comes from: a folder in diffusers' format, or a Hub id. Its small files are checked first, and
what cannot work is refused in one line, before the large ones are fetched."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import safe_open

from synth.errors import TeacherError
from synth.files import is_junk
from synth.settings import Sampler, Settings
from synth.state import read_json, reading
from synth.teacher.families import FAMILIES, Family
from synth.teacher.few_steps import is_few_steps, is_few_steps_name
from synth.teacher.identity import sha256

MINIATURE = Path(__file__).parents[1] / "miniature" / "weights"
"""The miniature's folder in a checkout; the environment variable DISTILLERY_MINIATURE names another."""

UNKNOWN_LICENCE = "unknown: see the teacher's own model card"

_SMALL_FILES = ["*.json", "*.txt", "README.md", "*/spiece.model"]
_OTHERS = ["*.fp16.*", "*.fp16-*", "*.non_ema.*", "*.non_ema-*"]
_REMEDY = "restore it, or name another teacher"
_CLASS_KEYS = {"_class_name", "model_type", "architectures", "tokenizer_class"}  # of diffusers and transformers
_HASHED = (".json", ".txt", ".model", ".safetensors")


class TeacherDefaults(Settings):
    """What a recipe may leave to its teacher, from `distillery.json` in its folder or from its family."""

    image_size: Annotated[int, Field(ge=1, le=8192)]
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: float
    sampler: Sampler = "own"
    edit_guidance_scale: float = 7.5
    """Of zero-shot edits (default: the authors' notebook's)."""
    edit_learning_rate: float = 2.0
    """Of zero-shot edits (default: the published one)."""
    licence: str = UNKNOWN_LICENCE


@dataclass(frozen=True)
class ModelFolder:
    """A model that passed the checks; its small files are on this machine."""

    name: str
    path: Path
    family: type[Family]
    index: dict[str, Any]
    """model_index.json: component -> library and class."""
    config: dict[str, Any]
    """The network's."""
    commit: str | None
    """Of a Hub id; None for a folder."""
    without: tuple[str, ...] = ()  # text encoders of `Family.optional` that are left out

    @property
    def few_steps(self) -> bool:
        """Whether it is a turbo, lightning or consistency model, by its name, scheduler or guidance embedding."""
        names = (self.name, str(self.index.get("_name_or_path", "")))
        return any(map(is_few_steps_name, names)) or is_few_steps(self.index["scheduler"][1], self.config)

    def num_parameters(self) -> int:
        """Count the network's parameters from its config, without allocating them."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.network().parameters())

    def network(self) -> Any:
        """Make the network from its config, with random weights."""
        return _from_config(self.family.network_class, self.config)

    def vae(self) -> Any:
        """Make the VAE from its config, with random weights."""
        return _from_config(self.index["vae"][1], self._vae_config())

    @property
    def vae_scale_factor(self) -> int:
        """Pixels of a latent's side."""
        config = self._vae_config()
        return int(2 ** (len(config.get("block_out_channels") or config["decoder_block_out_channels"]) - 1))

    def _vae_config(self) -> dict[str, Any]:
        return _read_json(self.path / "vae" / "config.json")

    def fetch(self) -> "ModelFolder":
        """Download the weights that are used, and no others.

        Raises:
            TeacherError: for a component without safetensors; for a Hub id, before anything is fetched.
        """
        weights = self._weights()
        if self.commit is not None:
            from huggingface_hub import snapshot_download

            lacking = [part for part in weights if not _has_safetensors(part, _files(self.path, part))]
            if lacking and (there := self._hub_files()):
                self._refuse_pickles(lacking, there)
            patterns = [*_SMALL_FILES, *(f"{part}/*.safetensors" for part in weights)]
            snapshot_download(self.name, revision=self.commit, allow_patterns=patterns, ignore_patterns=_OTHERS)
        self._refuse_pickles(weights, [name for part in weights for name in _files(self.path, part)])
        return self

    def absent(self) -> list[str]:
        """Components that are not loaded: those that nothing here reads, and optional ones without weights."""
        parts = [part for part in self.family.unused if part in self.index]
        for part in self.family.optional:
            if part in self.without or not _has_safetensors(part, _files(self.path, part)):
                parts += [part, part.replace("text_encoder", "tokenizer")]
        return parts

    def fingerprint(self, dtype: torch.dtype) -> str:
        """Hash all that pixels and scores depend on: configs and weights by content, so that no stale name passes,
        and their precision."""
        digest = hashlib.sha256(str(dtype).encode())
        for part in self._parts():
            for path in sorted((self.path / part).iterdir()):
                if path.suffix in _HASHED and not is_junk(path.name):
                    digest.update(f"{part}/{path.name}".encode())
                    digest.update(sha256(path))
        if "force_zeros_for_empty_prompt" in self.index:
            digest.update(f"null text is zeros: {self.index['force_zeros_for_empty_prompt']}".encode())
        return digest.hexdigest()[:16]

    def check_files(self) -> None:
        """Open every configuration and every file of weights, since a pipeline's own errors do not name the file.

        Raises:
            TeacherError: for a damaged or missing one.
        """
        for part in self._parts():
            with reading(self.path / part, TeacherError, _REMEDY):
                files = sorted((self.path / part).iterdir())
            for path in files:
                if path.suffix == ".json":
                    content = _read_json(path)
                    with reading(path, TeacherError, _REMEDY):
                        if path.name.endswith("config.json") and not _CLASS_KEYS & content.keys():
                            raise ValueError("it does not say what it configures")
                elif path.suffix == ".safetensors":
                    with reading(path, TeacherError, _REMEDY), safe_open(path, "pt"):
                        pass

    def defaults(self) -> TeacherDefaults:
        """Read the folder's own defaults, or take its family's.

        Raises:
            TeacherError: for a faulty `distillery.json`, or a model whose config has no image size.
        """
        own = self.path / "distillery.json"
        if own.exists():
            defaults: TeacherDefaults = read_json(own, TeacherDefaults, TeacherError, _REMEDY)
            return defaults
        if not isinstance(self.config.get("sample_size"), int):
            raise TeacherError(
                f"{self.name} does not say its image size: put image_size, num_inference_steps and guidance_scale in "
                f"{own}"
            )
        return TeacherDefaults(
            image_size=self.config["sample_size"] * self.vae_scale_factor,
            num_inference_steps=4 if self.few_steps else self.family.num_inference_steps,
            guidance_scale=1.0 if self.few_steps else self.family.guidance_scale,
            sampler="own" if self.few_steps else self.family.sampler,
            licence=_licence(self.path / "README.md"),
        )

    def _parts(self) -> list[str]:
        """The components that pixels and scores depend on, sorted."""
        encoders = self.family.text_encoders
        tokenizers = [name.replace("text_encoder", "tokenizer") for name in encoders]
        return sorted({self.family.network_name, "vae", "scheduler", *encoders, *tokenizers} - set(self.absent()))

    def _weights(self) -> list[str]:
        """The components that have weights and are used."""
        parts = (self.family.network_name, "vae", *self.family.text_encoders, "safety_checker")
        return [part for part in parts if part not in self.without and self.index.get(part, [None])[0]]

    def _hub_files(self) -> list[str]:
        """All files of the repository; none if the Hub cannot be reached: the download then says why."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            return HfApi().list_repo_files(self.name, revision=self.commit)
        except (HfHubHTTPError, OfflineModeIsEnabled):
            return []

    def _refuse_pickles(self, parts: Iterable[str], files: Sequence[str]) -> None:
        for part in parts:
            if part not in self.family.optional and not _has_safetensors(part, files):
                raise TeacherError(
                    f"{self.name} has no safetensors in {part}/: convert it, or name a revision that has them"
                )


def find(name: str, revision: str | None) -> ModelFolder:
    """Find a model and check its small files, so that it can be refused before gigabytes are downloaded.

    Args:
        name: `miniature`, a folder, or a Hub id.
        revision: of a Hub id: a branch, tag or commit.

    Raises:
        TeacherError: if it is missing, or not a text-to-image model of a known family. `synth.teacher.explain`
            turns what the Hub itself raises into one.
    """
    path, commit = _small_files(name, revision)
    if not (path / "model_index.json").exists():
        raise TeacherError(
            f"{name} has no model_index.json: it is a single network or of another format, "
            "and a teacher is a whole pipeline in diffusers' format"
        )
    index = _read_json(path / "model_index.json")
    kind = index.get("_class_name")
    if kind is None:
        raise TeacherError(f"{path / 'model_index.json'} names no pipeline: {_REMEDY}")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise TeacherError(
            f"{name} is a {kind if isinstance(kind, str) else 'pipeline of its own making'}; what paints and teaches "
            "here is a text-to-image Stable Diffusion 1.x, 2.x, XL or 3"
        )
    family = FAMILIES[kind]
    with reading(path / "model_index.json", TeacherError, _REMEDY):
        for part in (family.network_name, "vae", *family.text_encoders):
            if part not in family.optional and not index.get(part, [None])[0]:
                raise TeacherError(f"{name} has no {part}: it is not a whole pipeline")
    config_path = path / family.network_name / "config.json"
    config = _read_json(config_path)
    vae = _read_json(path / "vae" / "config.json")
    with reading(f"{config_path} or {path / 'vae' / 'config.json'}", TeacherError, _REMEDY):
        if config["in_channels"] != vae["latent_channels"]:
            raise TeacherError(
                f"{name} is not a text-to-image model: its network takes {config['in_channels']} channels and its "
                f"VAE makes {vae['latent_channels']} (an inpainting or instruction model does that)"
            )
    with reading(path / "scheduler" / "scheduler_config.json", TeacherError, _REMEDY):
        scheduler = _from_config(index["scheduler"][1], _read_json(path / "scheduler" / "scheduler_config.json"))
        if fault := family.check_scheduler(scheduler):
            raise TeacherError(f"{name} {fault}")
    return ModelFolder(name, path, family, index, config, commit)


def _small_files(name: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the folder, and the commit if it is a snapshot from the Hub."""
    if name == "miniature":
        folder = Path(os.environ.get("DISTILLERY_MINIATURE", MINIATURE))
        if not folder.is_dir():
            raise TeacherError(
                f"the miniature's weights are not at {folder}: train them with synth/miniature/train.py "
                "(the README says how), or name a folder or a Hub id with --teacher"
            )
        return folder, None
    if Path(name).is_dir():
        return Path(name), None
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, revision=revision, allow_patterns=_SMALL_FILES))
    return folder, folder.name  # a snapshot is named after its commit: the weights will come from it too


def _from_config(name: str, config: dict[str, Any]) -> Any:
    import diffusers

    kind: Any = getattr(diffusers, name)
    return kind.from_config(config)


def _files(path: Path, part: str) -> list[str]:
    folder = path / part
    return [f"{part}/{file.name}" for file in folder.iterdir()] if folder.is_dir() else []


def _has_safetensors(part: str, files: Iterable[str]) -> bool:
    own = [name for name in files if re.fullmatch(rf"{part}/[^/]*\.safetensors", name)]
    return any(".fp16" not in name and ".non_ema" not in name for name in own)


def _licence(card: Path) -> str:
    """From the front matter of a Hub model card."""
    from huggingface_hub import metadata_load

    metadata = (metadata_load(card) if card.exists() else None) or {}
    return str(metadata.get("license_name") or metadata.get("license") or UNKNOWN_LICENCE)


def _read_json(path: Path) -> dict[str, Any]:
    """Read one of a model's small files.

    Raises:
        TeacherError: if it is missing or damaged.
    """
    content: dict[str, Any] = read_json(path, dict[str, Any], TeacherError, _REMEDY)
    return content
