"""Filters that decide which painted images are kept. Each reject has a reason.

    blank           hardly any contrast
    CLIP            the image does not match its prompt, or does not show the object (transformers' CLIP)
    python          the recipe's own `package.module:function` rejects it
    near duplicate  its perceptual hash is close to that of an earlier image (`is_near_duplicate`, which
                    `synth.dataset.building` calls in the order of the dataset)
    veto            a person excludes its seed (`excluded_seeds`)

`synth.dataset.generate` removes what the teacher's safety checker blacks out.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import imagehash
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from synth.dataset.clip import load_clip
from synth.dataset.prompts import Scene
from synth.dataset.store import Store
from synth.errors import DatasetError, RecipeError, TeacherError
from synth.settings import FilterSettings
from synth.state import reading

Pixels = NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True)
class Verdict:
    """The filters' decision on an image."""

    reason: str | None
    """Why the image is rejected; None keeps it."""
    scores: Mapping[str, float | str]
    """What was measured, for the dataset's columns."""


class Filters:
    """All filters that the settings enable, cheap ones first. The first that rejects an image gives the reason.

    Raises:
        RecipeError: if the recipe's own filter cannot be imported.
        TeacherError: if the CLIP model cannot be opened.
    """

    def __init__(self, settings: FilterSettings) -> None:
        self.settings = settings
        self._own = _import(settings.python) if settings.python else None
        self._clip = _Clip(settings.clip) if settings.clip else None

    def judge(self, scene: Scene, pixels: Pixels) -> Verdict:
        """Decide on one image of a scene, uint8 (H, W, 3).

        Raises:
            RecipeError: if the recipe's own filter returns anything but None or a text.
        """
        contrast = round(float(pixels.mean(axis=2).std()), 3)
        scores: dict[str, float | str] = {"contrast": contrast}
        if contrast < self.settings.min_contrast:
            return Verdict(f"blank: contrast {contrast} below {self.settings.min_contrast:g}", scores)
        if self.settings.near_duplicates is not None:
            scores["phash"] = str(imagehash.phash(Image.fromarray(pixels)))
        if self._clip is not None:
            score = round(self._clip.similarities(pixels, [scene.prompt])[0], 4)
            scores["clip_score"] = score
            if score < self.settings.min_clip_score:
                return Verdict(f"CLIP score {score} below {self.settings.min_clip_score:g}", scores)
            if self.settings.object is not None:
                # CLIP's similarities mean little by themselves: compare with a text that names no object.
                texts = [f"a photo of {self.settings.object}", "a photo of something else"]
                with_object, without = self._clip.similarities(pixels, texts)
                if with_object <= without:
                    return Verdict(f"CLIP sees no {self.settings.object}", scores)
        if self._own is not None:
            answer = self._own(scene, pixels)
            if answer is not None and not isinstance(answer, str):
                raise RecipeError(
                    f"scenes.filters.python: {self.settings.python} returned {answer!r}; "
                    "it must return None to keep an image, or the reason as text"
                )
            return Verdict(answer, scores)
        return Verdict(None, scores)


def is_near_duplicate(phash: str, others: NDArray[np.uint64], max_bits: int) -> bool:
    """Return whether a hash of 64 bits in hexadecimal is within `max_bits` bits of any of `others`, uint64 (N,)."""
    return bool(len(others)) and int(np.bitwise_count(others ^ np.uint64(int(phash, 16))).min()) <= max_bits


def excluded_seeds(store: Store) -> frozenset[int]:
    """Return the seeds that a person vetoed: the first word of each line of exclude*.txt.

    Raises:
        DatasetError: for a line that does not begin with a seed.
    """
    seeds = []
    for name in store.names("exclude*.txt"):
        with reading(f"{store}/{name}", DatasetError, "the gallery writes such files, a seed a line"):
            for number, line in enumerate(store.read(name).decode("utf-8").splitlines(), start=1):
                word = line.partition("#")[0].strip()
                if not word:
                    continue
                if not re.fullmatch(r"[0-9]{1,20}", word):
                    raise ValueError(f"line {number}: {word[:40]!r} is not a seed")
                seeds.append(int(word))
    return frozenset(seeds)


def _import(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(f"scenes.filters.python: {name!r} cannot be imported ({error})") from None
    if not colon or not callable(found):
        raise RecipeError(f"scenes.filters.python: {name!r} is not a package.module:function")
    return found


class _Clip:
    """Cosine similarities of an image and texts, by CLIP."""

    def __init__(self, name: str) -> None:
        try:
            self._model, self._tokenizer, self._processor = load_clip(name)
        except TeacherError as error:
            raise TeacherError(f"scenes.filters.clip: {error}, or remove the key to filter without CLIP") from None
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.no_grad()
    def similarities(self, pixels: Pixels, texts: list[str]) -> list[float]:
        """Return one similarity per text, in [-1, 1]. A text is cut after the 77 tokens that CLIP reads."""
        inputs = self._processor(images=Image.fromarray(pixels), return_tensors="pt").pixel_values
        tokens = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        output = self._model(pixel_values=inputs.to(self._model.device), **tokens.to(self._model.device))
        similarities: list[float] = (output.image_embeds @ output.text_embeds.T)[0].tolist()  # both of length 1
        return similarities
