"""Keep or reject: what a painted image must pass before it may teach. Each reject has its reason.

    blank           next to no contrast
    CLIP            the image does not fit its prompt, or shows none of the object named (transformers' CLIP)
    own             `package.module:function`, a callable of the recipe's author
    near duplicate  the perceptual hash of an earlier image (`is_near_duplicate`, called by `synth.dataset.building` in the
                    order of the set)

What the teacher's safety checker blacks out never comes here: see `synth.dataset.generate`.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import imagehash
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from synth.clip import load_clip
from synth.dataset.prompts import Scene
from synth.errors import RecipeError, TeacherError
from synth.settings import FilterSettings

Picture = NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True)
class Verdict:
    """What the filters say of an image."""

    reason: str | None
    """Why it is rejected; None keeps it."""
    scores: Mapping[str, float | str]
    """What was measured, for the data set's columns."""


class Filters:
    """All filters that the settings switch on, the cheap ones first; the first objection counts.

    Raises:
        RecipeError: if the recipe's own callable cannot be imported.
        TeacherError: if the CLIP model cannot be opened.
    """

    def __init__(self, settings: FilterSettings) -> None:
        self.settings = settings
        self._own = _import(settings.python) if settings.python else None
        self._clip = _Clip(settings.clip) if settings.clip else None

    def judge(self, scene: Scene, picture: Picture) -> Verdict:
        """Look at one image, uint8 (H, W, 3), of a scene.

        Raises:
            RecipeError: if the recipe's own callable answers anything but None or a reason.
        """
        contrast = round(float(_grey(picture).std()), 3)
        scores: dict[str, float | str] = {"contrast": contrast}
        if contrast < self.settings.min_contrast:
            return Verdict(f"blank: contrast {contrast} below {self.settings.min_contrast:g}", scores)
        if self.settings.near_duplicates is not None:
            scores["phash"] = str(imagehash.phash(Image.fromarray(picture)))
        if self._clip is not None:
            least, named = self.settings.min_clip_score, self.settings.object
            similarity = round(self._clip.similarities(picture, [scene.prompt])[0], 4)
            scores["clip_score"] = similarity
            if similarity < least:
                return Verdict(f"CLIP score {similarity} below {least:g}", scores)
            if named is not None:
                texts = [f"a photo of {named}", "a photo of something else"]
                there, elsewhere = self._clip.similarities(picture, texts)
                if there <= elsewhere:
                    return Verdict(f"CLIP sees no {named}", scores)
        if self._own is not None:
            answer = self._own(scene, picture)
            if answer is not None and not isinstance(answer, str):
                raise RecipeError(
                    f"scenes.filters.python: {self.settings.python} answered {answer!r}; "
                    "it must return None to keep an image, or the reason as text"
                )
            return Verdict(answer, scores)
        return Verdict(None, scores)


def is_near_duplicate(phash: str, others: NDArray[np.uint64], most: int) -> bool:
    """Whether at most `most` of the 64 bits differ from any of `others`, uint64 (N,)."""
    return bool(len(others)) and int(np.bitwise_count(others ^ np.uint64(int(phash, 16))).min()) <= most


def _grey(picture: Picture) -> NDArray[np.float64]:
    values: NDArray[np.float64] = picture.mean(axis=2)
    return values


def _import(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(f"scenes.filters.python: {name!r} cannot be imported ({error})") from None
    if not colon or not callable(found):
        raise RecipeError(f"scenes.filters.python: {name!r} is no package.module:function")
    return found


class _Clip:
    """Cosine similarities of an image and texts."""

    def __init__(self, name: str) -> None:
        try:
            self._model, self._tokenizer, self._processor = load_clip(name)
        except TeacherError as error:
            raise TeacherError(f"scenes.filters.clip: {error}, or leave the key out to filter without CLIP") from None
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.no_grad()
    def similarities(self, picture: Picture, texts: list[str]) -> list[float]:
        """In [-1, 1], one a text; a long text is cut at what CLIP reads."""
        pixels = self._processor(images=Image.fromarray(picture), return_tensors="pt").pixel_values
        words = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        output = self._model(pixel_values=pixels.to(self._model.device), **words.to(self._model.device))
        similarities: list[float] = (output.image_embeds @ output.text_embeds.T)[0].tolist()  # both of length 1
        return similarities
