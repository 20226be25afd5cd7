"""Scenes from words: a template with slots, and which of its combinations scene number i shows.

    a {color} {material} sofa in a living room with {wall} walls

A slot is a name in braces. An article right before a slot agrees with what fills it: "a {color}" becomes "a red" or
"an orange". A value may be empty: the word is left out. A value may bring its own article, so that "a potted plant"
can give way to "tulips". That is the whole language.

Photographs were not made from words: they have one text for all, or captions.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from synth.errors import RecipeError, nearest
from synth.seeds import derive_seed
from synth.settings import PhotoTextSettings, SceneSettings, Substitution

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE_OF_SLOT = re.compile(r"\b([Aa])n?(?=\s+\{)")
_AGREE = "\x00"  # stands behind an article until the word after it is known
_VOWEL_SOUND = re.compile(
    r"(?:hour|honest|heir|honou?r|8|11\b|18\b)|(?!eu|one\b|once\b|uni(?![mn])|us[eu]|ute)[aeiou]", re.IGNORECASE
)


@dataclass(frozen=True)
class Scene:
    """One image to be painted."""

    index: int
    prompt: str
    negative_prompt: str
    seed: int
    slots: Mapping[str, str]


class Template:
    """The scenes of a recipe: pure, and the same on every machine.

    Raises:
        RecipeError: for a template without slots, with stray braces, or whose slots and lists of values do not match.
    """

    def __init__(self, settings: SceneSettings) -> None:
        self.settings = settings
        used = set(_SLOT.findall(settings.template))
        if re.search(r"[{}]", _SLOT.sub("", settings.template)):
            raise RecipeError(
                f"the template {settings.template!r} has stray braces: "
                "a slot is one name of letters, digits and underscores in braces, like {color}"
            )
        if not used:
            raise RecipeError(f"the template {settings.template!r} has no {{slot}}: every scene would be the same")
        for name in sorted(used - set(settings.slots)):
            raise RecipeError(
                f"the template uses {{{name}}}, but scenes.slots has no {name!r}{nearest(name, settings.slots)}"
            )
        for name in sorted(set(settings.slots) - used):
            raise RecipeError(f"scenes.slots.{name} is never used in the template: add {{{name}}} or remove the slot")
        for name, values in settings.slots.items():
            repeated = [value for value, count in Counter(list(values)).items() if count > 1]
            if repeated:
                raise RecipeError(
                    f"scenes.slots.{name} lists {repeated[0]!r} more than once: give it a weight instead"
                )
        self._names = sorted(settings.slots)
        self._values = {name: _by_weight(settings.slots[name]) for name in self._names}
        self.num_combinations = math.prod(len(values) for values in self._values.values())

    def scene(self, index: int) -> Scene:
        """Scene `index`, from 0 on. Combinations come in a shuffled order, none twice before all have come once; one
        with weights comes as often as the product of its weights in that time."""
        turn, place = divmod(index, self.num_combinations)
        number = _shuffled(place, self.num_combinations, derive_seed(self.settings.seed, "combination", turn))
        slots = {}
        for name in self._names:
            number, choice = divmod(number, len(self._values[name]))
            slots[name] = self._values[name][choice]
        return Scene(
            index=index,
            prompt=self.render(slots),
            negative_prompt=self.settings.negative_prompt,
            seed=derive_seed(self.settings.seed, "scene", index),
            slots=slots,
        )

    def render(self, slots: Mapping[str, str]) -> str:
        """The template's text with its slots filled, and the articles before them set right."""
        text = _ARTICLE_OF_SLOT.sub(rf"\1{_AGREE}", self.settings.template)
        text = _SLOT.sub(lambda match: slots[match[1]], text)
        text = re.sub(r"\s+([,.])", r"\1", " ".join(text.split()))  # what an empty value leaves behind
        return re.sub(rf"{_AGREE}( ?)(?=(\w*))", lambda match: f"{_n(match[2])}{match[1]}", text)

    def edited(self, slots: Mapping[str, str], edit: Substitution) -> str:
        """The same scene's prompt after an edit: the same words, with the edit's slots replaced.

        Raises:
            RecipeError: if the edit names a slot that the template does not have.
        """
        for name in edit:
            if name not in self._names:
                raise RecipeError(
                    f"an edit replaces {name!r}, which is no slot of the template{nearest(name, self._names)}"
                )
        return self.render({**slots, **edit})

    @property
    def slots(self) -> list[str]:
        """The slots' names, which a painted image must have values of."""
        return self._names

    @property
    def identity(self) -> str:
        """What the texts follow from."""
        return self.settings.template

    def source(self, prompt: str) -> str:
        """What a painted image shows: the very prompt that it was painted from."""
        return prompt

    def target(self, prompt: str, slots: Mapping[str, str], edit: Substitution) -> str:
        """What it shall show after an edit. Raises RecipeError as `edited`."""
        return self.edited(slots, edit)


class PhotoTexts:
    """The texts of photographs: one pair for all of them, or each one's caption and the same with words replaced."""

    slots: tuple[str, ...] = ()

    def __init__(self, settings: PhotoTextSettings) -> None:
        self.settings = settings

    @property
    def identity(self) -> str:
        """What the texts follow from."""
        source = self.settings.source
        return "each photograph's caption" if source is None else f"photographs, {source!r}"

    def source(self, caption: str) -> str:
        """What a photograph shows."""
        return caption if self.settings.source is None else self.settings.source

    def target(self, caption: str, slots: Mapping[str, str], edit: Substitution) -> str:
        """What it shall show after an edit. An article right before a replaced word agrees with the new one.

        Raises:
            RecipeError: if the edit is not of the form that these texts need.
        """
        if self.settings.source is not None:
            if set(edit) != {"target"} or not edit["target"].strip():
                raise RecipeError(
                    f'photos.source is one text for all, so an edit is {{ target = "..." }}, not {dict(edit)}'
                )
            return edit["target"]
        if not edit or not all(words.strip() for words in edit):
            raise RecipeError(
                f'an edit of captions names words and what replaces them, {{ cat = "lion" }}, not {dict(edit)}'
            )
        longest_first = sorted(edit, key=len, reverse=True)
        wanted = re.compile(rf"(?:\b(a)n? )?(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
        new = {words.lower(): replacement for words, replacement in edit.items()}

        def replaced(match: re.Match[str]) -> str:
            words = new[match[2].lower()]
            return f"{match[1]}{_n(words)} {words}" if match[1] else words

        return wanted.sub(replaced, caption)


def _by_weight(values: list[str] | dict[str, int]) -> list[str]:
    """Each value as often as its weight says; weights are a mapping, whose order means nothing."""
    if not isinstance(values, dict):
        return values
    return [value for value, weight in sorted(values.items()) for _ in range(weight)]


def _n(word: str) -> str:
    """What turns "a" into the article of `word`."""
    return "n" if _VOWEL_SOUND.match(word) else ""


def _shuffled(place: int, size: int, key: int) -> int:
    """A keyed permutation of 0 ... size - 1: a Feistel network on the next power of four, walked until it lands
    inside. No list of all combinations is ever made."""
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for turn in range(4):
            left, right = right, left ^ (derive_seed(key, turn, right) & mask)
        place = left << half | right
        if place < size:
            return place
