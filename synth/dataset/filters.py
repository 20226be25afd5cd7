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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import imagehash
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from synth.dataset.clip import load_clip
from synth.dataset.prompts import Scene
from synth.dataset.shards import Row, reject_row, scene_row
from synth.dataset.store import Store
from synth.errors import DatasetError, RecipeError, TeacherError
from synth.settings import FilterSettings
from synth.state import reading

_MIN_TRIED = 60  # images of a shard, before its share of rejects can end the run
_MAX_REJECTED = 0.9  # share of the images tried

Pixels = NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True)
class Verdict:
    """The filters' decision on an image."""

    reason: str | None
    """Why the image is rejected; None keeps it."""
    scores: Mapping[str, float | str]
    """What was measured, for the dataset's columns."""


@dataclass(frozen=True)
class Judged:
    """A painted image that the filters have decided on."""

    scene: Scene
    attempt: int
    reason: str | None
    """Why it is rejected; None keeps it."""
    row: Row
    """Of the dataset, or of the table of rejects."""


class Filters:
    """All filters that the settings enable, cheap ones first. The first that rejects an image gives the reason.

    Args:
        settings: of the recipe.
        device: that CLIP runs on: the teacher's, which the recipe has chosen.

    Raises:
        RecipeError: if the recipe's own filter cannot be imported.
        TeacherError: if the CLIP model cannot be opened.
    """

    def __init__(self, settings: FilterSettings, device: torch.device) -> None:
        self.settings = settings
        self._own = _import(settings.python) if settings.python else None
        self._clip = _Clip(settings.clip, device) if settings.clip else None

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


def judge_paintings(
    filters: Filters, tries: Sequence[tuple[Scene, int]], images: Sequence[Image.Image | None]
) -> list[Judged]:
    """Decide on the images of a batch, one after another, and make their rows.

    Args:
        filters: that decide.
        tries: of each image its scene, and the number of the attempt at it.
        images: None stands for one that the safety checker blacked out.

    Raises:
        RecipeError: as `Filters.judge`.
    """
    return [_judged(filters, *each, image) for each, image in zip(tries, images, strict=True)]


def _judged(filters: Filters, scene: Scene, attempt: int, image: Image.Image | None) -> Judged:
    reason: str | None = "safety checker"
    if image is not None:
        verdict = filters.judge(scene, np.asarray(image))
        reason = verdict.reason
        if reason is None:
            return Judged(scene, attempt, None, scene_row(scene, image, verdict.scores))
    return Judged(scene, attempt, reason, reject_row(scene, attempt, image, reason or ""))


def refuse_hopeless(
    settings: FilterSettings, scene: Scene, attempt: int, rejects: Sequence[Row], tried: Counter[str]
) -> None:
    """Give up after too many attempts at one scene, or too high a share of rejects.

    Args:
        settings: how many attempts a scene has.
        scene: the one rejected last.
        attempt: its number, from 0 on.
        rejects: of the shard, this one included.
        tried: how many images were kept, or rejected for a reason.

    Raises:
        DatasetError: for either; the message gives the reasons.
    """
    if attempt + 1 >= settings.max_attempts:
        reasons = [row["reason"] for row in rejects if row["index"] == scene.index]
        raise DatasetError(
            f"scene {scene.index}, {scene.prompt!r}, was rejected {len(reasons)} times, last for: {reasons[-1]}. "
            "Reword the template, or loosen scenes.filters; finished shards stay"
        )
    if tried.total() >= _MIN_TRIED and tried["kept"] < (1 - _MAX_REJECTED) * tried.total():
        why = ", ".join(f"{count} {reason}" for reason, count in tried.most_common(4))
        raise DatasetError(
            f"of {tried.total()} images {tried['kept']} were kept ({why}): "
            "loosen scenes.filters, or reword the template; finished shards stay"
        )


@contextmanager
def judging(in_thread: bool) -> Iterator[Callable[..., "Future[Any]"]]:
    """Yield what calls a function, in a thread of its own, one call after another, or at once.

    Args:
        in_thread: whether the caller goes on meanwhile.
    """
    if not in_thread:
        yield _at_once
        return
    with ThreadPoolExecutor(1, "judging") as thread:
        yield thread.submit


def _at_once(call: Callable[..., Any], *args: Any) -> "Future[Any]":
    done: Future[Any] = Future()
    done.set_result(call(*args))
    return done


def is_near_duplicate(phash: np.uint64, others: NDArray[np.uint64], max_bits: int) -> bool:
    """Return whether a hash of 64 bits is within `max_bits` bits of any of `others`, uint64 (N,)."""
    return bool(len(others)) and int(np.bitwise_count(others ^ phash).min()) <= max_bits


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

    def __init__(self, name: str, device: torch.device) -> None:
        try:
            self._model, self._tokenizer, self._processor = load_clip(name)
        except TeacherError as error:
            raise TeacherError(f"scenes.filters.clip: {error}, or remove the key to filter without CLIP") from None
        self._model.to(device)

    @torch.no_grad()
    def similarities(self, pixels: Pixels, texts: list[str]) -> list[float]:
        """Return one similarity per text, in [-1, 1]. A text is cut after the 77 tokens that CLIP reads."""
        inputs = self._processor(images=Image.fromarray(pixels), return_tensors="pt").pixel_values
        tokens = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        output = self._model(pixel_values=inputs.to(self._model.device), **tokens.to(self._model.device))
        similarities: list[float] = (output.image_embeds @ output.text_embeds.T)[0].tolist()  # both of length 1
        return similarities
