"""An edit in words, and the template, slots and edits of the recipe that it makes.

What images show is one text, and an edit changes it in one of three ways:

    snowy=summer street -> snowy street      words of the text give way to others
    purple=color=purple, material=velvet     slots of the text, such as {color}, take other values
    sunset=at sunset                         words are added at the end

Photographs have no words of their own: one text stands for all of them, which may be empty, and an edit is the whole
text of what they shall show.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.config.loading import load_recipe
from flows.config.naming import slug
from flows.config.schema import Recipe
from synth.errors import RecipeError

Values = list[str] | dict[str, int]
"""Of a slot: a list, or values with weights."""

_ADDED = "added"  # the slot of words that edits add
_NAME = re.compile(r"([a-z0-9][a-z0-9_-]*)\s*=\s*(.*)", re.DOTALL | re.IGNORECASE)
_SLOTS = re.compile(r"\w+\s*=[^=]*(,\s*\w+\s*=[^=]*)*")


@dataclass(frozen=True)
class Words:
    """The part of a recipe that is in words."""

    template: str
    slots: Mapping[str, Values]
    edits: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class PhotoWords:
    """The same part of a recipe of photographs."""

    source: str
    edits: Mapping[str, Mapping[str, str]]


def words_of(subject: str, edits: Sequence[str], slots: Mapping[str, Values] | None = None) -> Words:
    """A template with its slots and edits from what a person said.

    Args:
        subject: what the images show; it may have slots in braces.
        edits: each in one of the three forms above; the name may be left out before an arrow.
        slots: the values of the subject's own slots.

    Raises:
        RecipeError: for an edit that is in none of the forms, or whose words the subject does not have.
    """
    template, values = " ".join(subject.split()), dict(slots or {})
    unknown = [name for name in re.findall(r"\{(\w+)\}", template) if name not in values]
    if unknown:
        raise RecipeError(
            f'the subject has the slot {{{unknown[0]}}}: give its values, --slot "{unknown[0]}=..., ..."'
        )
    own, written = dict(values), {}
    for text in edits:
        name, change = _named(text, own)
        if name in written:
            raise RecipeError(f"two edits are called {name!r}: give each a name of its own, NAME=...")
        if "->" in change:
            source, target = _sides(change, text)
            slot = _slot_name(source)
            if slot not in values:
                template = _with_slot(template, source, slot)
                values[slot] = [source]
            written[name] = {slot: target}
        elif own and _SLOTS.fullmatch(change):
            pairs = [part.partition("=") for part in re.split(r",\s*(?=\w+\s*=)", change)]
            written[name] = {slot.strip(): value.strip() for slot, _, value in pairs}
        else:
            if _ADDED not in values:
                template, values[_ADDED] = f"{template} {{{_ADDED}}}", [""]
            written[name] = {_ADDED: change}
    return Words(template, values, written)


def photo_words_of(source: str, edits: Sequence[str]) -> PhotoWords:
    """The same for photographs: one source text for all, which may be empty, and for each edit one target.

    Raises:
        RecipeError: for an edit without a name or a text.
    """
    source = " ".join(source.split())
    written: dict[str, dict[str, str]] = {}
    for text in edits:
        name, change = _named(text, {})
        if "->" in change:
            old, new = _sides(change, text)
            change = _with_slot(source, old, "new").replace("{new}", new)
        if name in written:
            raise RecipeError(f"two edits are called {name!r}: give each a name of its own, NAME=...")
        written[name] = {"target": change}
    return PhotoWords(source, written)


def slot_values(texts: Sequence[str]) -> dict[str, Values]:
    """ "season=summer, autumn" -> {"season": ["summer", "autumn"]}.

    Raises:
        RecipeError: for a text of another form.
    """
    found: dict[str, Values] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not re.fullmatch(r"\w+", name.strip()):
            raise RecipeError(f'--slot {text!r} is no slot: write it as "season=summer, autumn"')
        found[name.strip()] = [value.strip() for value in values.split(",")]
    return found


def words_from(shipped: str, edits: Sequence[str]) -> tuple[Words, Recipe]:
    """The words of a recipe that comes with the project, its edits replaced where others are given.

    Raises:
        RecipeError: if there is no such recipe, or an edit that does not fit it.
    """
    recipe = load_recipe(shipped)
    scenes = recipe.to_paint()
    own = Words(scenes.template, scenes.slots, recipe.edits)
    return (words_of(own.template, edits, own.slots) if edits else own), recipe


def _named(text: str, slots: Mapping[str, Values]) -> tuple[str, str]:
    """An edit's name and what it changes."""
    match = _NAME.fullmatch(text.strip())
    if match is None:
        if "->" not in text:
            raise RecipeError(f'--edit {text!r} has no name: write it as NAME=..., such as "sunset=at sunset"')
        name, change = slug(text.rpartition("->")[2]), text.strip()
    else:
        name, change = match[1].lower(), " ".join(match[2].split())
    if name in slots:
        raise RecipeError(f"--edit {text!r} names a slot and no edit: write it as NAME={text.strip()}")
    if not change:
        raise RecipeError(f"--edit {text!r} says nothing to change: write the new words behind the name")
    return name, change


def _sides(change: str, text: str) -> tuple[str, str]:
    source, _, target = (part.strip() for part in change.partition("->"))
    if not source:
        raise RecipeError(f"--edit {text!r} has no words before the arrow: to add words, write NAME=WORDS")
    return source, target


def _with_slot(template: str, source: str, slot: str) -> str:
    found, num = re.subn(rf"(?<![\w{{]){re.escape(source)}(?![\w}}])", f"{{{slot}}}", template)
    if not num:
        raise RecipeError(
            f"the subject {template!r} does not have the words {source!r}: an edit replaces words of the subject, "
            "and each of its words is in one edit's source alone"
        )
    return found


def _slot_name(source: str) -> str:
    return re.sub(r"\W+", "_", source.lower()).strip("_") or "slot"
