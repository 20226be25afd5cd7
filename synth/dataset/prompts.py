"""Prompts: a template with slots, and the combination of slot values of each scene.

    a {color} {material} sofa in a living room with {wall} walls

A slot is a name in braces. An article before a slot agrees with its value: "a {color}" becomes "a red" or "an
orange". An empty value leaves the word out. A value may contain its article, so that an edit can replace "a potted
plant" with "tulips". That is the whole language.

Photographs have no template: they share one source prompt, or have captions.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from synth.errors import RecipeError, nearest
from synth.seeds import derive_seed
from synth.settings import PhotoTextSettings, SceneSettings, Substitution
from synth.words import WORD_CHARACTERS, nfc, whole_words

_SLOT = re.compile(rf"\{{([{WORD_CHARACTERS}]+)\}}")
_ARTICLE_OF_SLOT = re.compile(r"\b([Aa])n?(?=\s+\{)")
_AGREE = "\x00"  # marks an article until the word after it is known
_VOWEL_SOUND = re.compile(
    r"(?:hour|honest|heir|honou?r|8|11\b|18\b)|(?!eu|one\b|once\b|uni(?![mn])|us[eu]|ute)[aeiou]", re.IGNORECASE
)


@dataclass(frozen=True)
class Scene:
    """One image to paint."""

    index: int
    prompt: str
    negative_prompt: str
    seed: int
    slots: Mapping[str, str]


class Template:
    """The scenes of a recipe: pure functions of its settings, the same on every machine.

    Attributes:
        settings: the recipe's scenes.
        num_combinations: of slot values, counted with their weights.

    Raises:
        RecipeError: for a template without slots or with stray braces, or if its slots do not match `settings.slots`.
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
            if repeated := [value for value, count in Counter(list(values)).items() if count > 1]:
                raise RecipeError(
                    f"scenes.slots.{name} lists {repeated[0]!r} more than once: give it a weight instead"
                )
        self._names = sorted(settings.slots)
        self._values = {name: _by_weight(settings.slots[name]) for name in self._names}
        self.num_combinations = math.prod(len(values) for values in self._values.values())

    def scene(self, index: int) -> Scene:
        """Return scene `index`, from 0.

        Combinations come in shuffled order, and none comes twice before all have come once. A combination of weighted
        values counts as often as the product of its weights.
        """
        turn, place = divmod(index, self.num_combinations)
        number = _shuffled(place, self.num_combinations, derive_seed(self.settings.seed, "combination", turn))
        # The digits of a mixed-radix number choose the slots' values.
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
        """Fill the template's slots, and correct the articles before them."""
        text = _ARTICLE_OF_SLOT.sub(rf"\1{_AGREE}", self.settings.template)
        text = _SLOT.sub(lambda match: slots[match[1]], text)
        text = re.sub(r"\s+([,.])", r"\1", " ".join(text.split()))  # what an empty value leaves behind
        return re.sub(rf"{_AGREE}( ?)(?=(\w*))", lambda match: f"{_n(match[2])}{match[1]}", text)

    def edited(self, slots: Mapping[str, str], edit: Substitution) -> str:
        """Return the prompt of a scene after an edit, which replaces some slots.

        Raises:
            RecipeError: if the edit names a slot that the template does not have.
        """
        for name in edit:
            if name not in self._names:
                raise RecipeError(
                    f"an edit replaces {name!r}, which is not a slot of the template{nearest(name, self._names)}"
                )
        return self.render({**slots, **edit})

    @property
    def slots(self) -> list[str]:
        """The names of the slots. Every painted image has a value of each."""
        return self._names

    @property
    def identity(self) -> str:
        """What the prompts depend on."""
        return self.settings.template

    def source(self, prompt: str) -> str:
        """Return the source prompt of a painted image: its own prompt."""
        return prompt

    def target(self, prompt: str, slots: Mapping[str, str], edit: Substitution) -> str:
        """Return the target prompt of a painted image.

        Raises:
            RecipeError: as `edited`.
        """
        return self.edited(slots, edit)


class PhotoTexts:
    """The prompts of photographs: one pair for all, or each caption before and after replacing words."""

    slots: tuple[str, ...] = ()

    def __init__(self, settings: PhotoTextSettings) -> None:
        self.settings = settings

    @property
    def identity(self) -> str:
        """What the prompts depend on."""
        source = self.settings.source
        return "each photograph's caption" if source is None else f"photographs, {source!r}"

    def source(self, caption: str) -> str:
        """Return the source prompt of a photograph."""
        return nfc(caption) if self.settings.source is None else self.settings.source

    def target(self, caption: str, slots: Mapping[str, str], edit: Substitution) -> str:
        """Return the target prompt of a photograph. An article before a replaced word agrees with the new word.

        Raises:
            RecipeError: if the edit does not have the form that `photos.source` requires.
        """
        if self.settings.source is not None:
            if set(edit) != {"target"} or not edit["target"].strip():
                raise RecipeError(
                    f'photos.source is one prompt for all, so an edit is {{ target = "..." }}, not {dict(edit)}'
                )
            return edit["target"]
        if not edit or not all(old.strip() for old in edit):
            raise RecipeError(
                f'an edit of captions maps words to their replacements, {{ cat = "lion" }}, not {dict(edit)}'
            )
        # The longest words come first, so that "red fox" is replaced before "fox".
        longest_first = sorted(edit, key=len, reverse=True)
        pattern = re.compile(rf"(?:\b(a)n? )?({whole_words(longest_first)})", re.IGNORECASE)
        replacements = {old.casefold(): new for old, new in edit.items()}

        def replace(match: re.Match[str]) -> str:
            new = replacements[match[2].casefold()]
            return f"{match[1]}{_n(new)} {new}" if match[1] else new

        return pattern.sub(replace, nfc(caption))


def _by_weight(values: list[str] | dict[str, int]) -> list[str]:
    """Repeat each value as often as its weight."""
    if not isinstance(values, dict):
        return values
    # Sorted, for the order of a table in TOML has no meaning.
    return [value for value, weight in sorted(values.items()) for _ in range(weight)]


def _n(word: str) -> str:
    """Return what turns "a" into the article of a word: "n" or nothing."""
    return "n" if _VOWEL_SOUND.match(word) else ""


def _shuffled(place: int, size: int, key: int) -> int:
    """Return the image of `place` under a keyed permutation of 0 ... size - 1.

    A Feistel network permutes the next power of four; it is applied until the result is in range (cycle walking). So
    there is never a list of all combinations.
    """
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for turn in range(4):
            left, right = right, left ^ (derive_seed(key, turn, right) & mask)
        place = left << half | right
        if place < size:
            return place
