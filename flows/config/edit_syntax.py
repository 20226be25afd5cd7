"""Parse the edits of the command line into the template, slots and edits of a recipe.

One text describes the images, and an edit changes it in one of three ways:

    snowy=summer street -> snowy street      replaces words of the text
    purple=color=purple, material=velvet     gives slots of the text, such as {color}, other values
    sunset=at sunset                         adds words at the end

Photographs without captions share one text, which may be empty. Their edit is the whole text of the result.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.config.loading import load_recipe
from flows.config.naming import edit_name, name_from
from flows.config.schema import Recipe
from synth.errors import RecipeError
from synth.words import WORD_CHARACTERS, nfc, whole_words

Values = list[str] | dict[str, int]
"""A slot's values: a list, or a weight for each value."""

_ADDED = "added"  # the slot for words that edits add at the end
_NAME = re.compile(r"([^\s=,>]+)\s*=\s*(.*)", re.DOTALL)
_SLOT = rf"[{WORD_CHARACTERS}]+"
_SLOTS = re.compile(rf"{_SLOT}\s*=[^=]*(,\s*{_SLOT}\s*=[^=]*)*")


@dataclass(frozen=True)
class ParsedSceneText:
    """The template, slots and edits of a recipe of painted scenes."""

    template: str
    slots: Mapping[str, Values]
    edits: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class ParsedPhotoText:
    """The source text and edits of a recipe of photographs."""

    source: str
    edits: Mapping[str, Mapping[str, str]]


def parse_scene_text(
    subject: str, edits: Sequence[str], slots: Mapping[str, Values] | None = None
) -> ParsedSceneText:
    """Parse a subject and its edits into a template with slots.

    Args:
        subject: what the images show; may contain slots in braces.
        edits: each in one of the module's three forms; one with an arrow needs no name.
        slots: the values of the subject's slots.

    Raises:
        RecipeError: for an edit in none of the forms, or one that replaces words the subject does not contain.
    """
    template = nfc(" ".join(subject.split()))
    values = dict(slots or {})
    unknown = [name for name in re.findall(rf"\{{({_SLOT})\}}", template) if name not in values]
    if unknown:
        raise RecipeError(
            f'the subject has the slot {{{unknown[0]}}}: give its values, --slot "{unknown[0]}=..., ..."'
        )
    given_slots = dict(values)
    parsed: dict[str, dict[str, str]] = {}
    for text in edits:
        name, change = _split_name(text, given_slots)
        if name in parsed:
            raise RecipeError(f"two edits are called {name!r}: give each its own name, NAME=...")
        if "->" in change:
            # Two edits that replace the same words share one slot.
            source, target = _split_arrow(change, text)
            slot = _slot_name(source)
            if slot not in values:
                template = _with_slot(template, source, slot)
                values[slot] = [source]
            parsed[name] = {slot: target}
        elif given_slots and _SLOTS.fullmatch(change):
            pairs = [pair.partition("=") for pair in re.split(rf",\s*(?={_SLOT}\s*=)", change)]
            parsed[name] = {slot.strip(): value.strip() for slot, _, value in pairs}
        else:
            # The slot is empty in every prompt until an edit fills it.
            if _ADDED not in values:
                template = f"{template} {{{_ADDED}}}"
                values[_ADDED] = [""]
            parsed[name] = {_ADDED: change}
    return ParsedSceneText(template, values, parsed)


def parse_photo_text(source: str, edits: Sequence[str]) -> ParsedPhotoText:
    """Parse the source text of all photographs and the target text of each edit.

    Args:
        source: what all photographs show; may be empty.
        edits: each a target text, or words of the source to replace.

    Raises:
        RecipeError: for an edit without a name or a text.
    """
    source = nfc(" ".join(source.split()))
    parsed: dict[str, dict[str, str]] = {}
    for text in edits:
        name, change = _split_name(text, {})
        if "->" in change:
            old, new = _split_arrow(change, text)
            change = _with_slot(source, old, "new").replace("{new}", new)
        if name in parsed:
            raise RecipeError(f"two edits are called {name!r}: give each its own name, NAME=...")
        parsed[name] = {"target": change}
    return ParsedPhotoText(source, parsed)


def slot_values(texts: Sequence[str]) -> dict[str, Values]:
    """Parse slots: "season=summer, autumn" -> {"season": ["summer", "autumn"]}.

    Raises:
        RecipeError: for a text in another form.
    """
    found: dict[str, Values] = {}
    for text in texts:
        name, equals, values = nfc(text).partition("=")
        if not equals or not re.fullmatch(_SLOT, name.strip()):
            raise RecipeError(f'--slot {text!r} is not a slot: write it as "season=summer, autumn"')
        found[name.strip()] = [value.strip() for value in values.split(",")]
    return found


def scene_text_from_recipe(shipped: str, edits: Sequence[str]) -> tuple[ParsedSceneText, Recipe]:
    """Take the template and slots of a shipped recipe, and its edits unless others are given.

    Returns:
        The parsed text, and the shipped recipe.

    Raises:
        RecipeError: if there is no such recipe, or an edit does not fit it.
    """
    recipe = load_recipe(shipped)
    scenes = recipe.to_paint()
    if edits:
        return parse_scene_text(scenes.template, edits, scenes.slots), recipe
    return ParsedSceneText(scenes.template, scenes.slots, recipe.edits), recipe


def _split_name(text: str, slots: Mapping[str, Values]) -> tuple[str, str]:
    """Split an edit into its name and its change; an edit with an arrow alone is named after its target."""
    text = nfc(text)
    match = _NAME.fullmatch(text.strip())
    if match is None:
        if "->" not in text:
            raise RecipeError(f'--edit {text!r} has no name: write it as NAME=..., such as "sunset=at sunset"')
        name, change = name_from(text.rpartition("->")[2]), text.strip()
    else:
        name, change = _checked_name(match[1].lower()), " ".join(match[2].split())
    if name in slots:
        raise RecipeError(f"--edit {text!r} names a slot, not an edit: write it as NAME={text.strip()}")
    if not change:
        raise RecipeError(f"--edit {text!r} has no text: write the new words after the name")
    return name, change


def _checked_name(name: str) -> str:
    try:
        return edit_name(name)
    except ValueError as error:
        raise RecipeError(f"{name!r} {error}") from None


def _split_arrow(change: str, text: str) -> tuple[str, str]:
    source, _, target = (side.strip() for side in change.partition("->"))
    if not source:
        raise RecipeError(f"--edit {text!r} has no words before the arrow: to add words, write NAME=WORDS")
    return source, target


def _with_slot(template: str, source: str, slot: str) -> str:
    """Replace whole words of the template by a slot."""
    pieces = re.split(r"(\{[^}]*\})", template)  # every other one is a slot, whose name stays
    pieces[::2] = [re.sub(whole_words([source]), f"{{{slot}}}", piece) for piece in pieces[::2]]
    result = "".join(pieces)
    if result == template:
        raise RecipeError(
            f"the subject {template!r} does not have the words {source!r}: an edit replaces words of the subject, "
            "and two edits must not replace overlapping words"
        )
    return result


def _slot_name(source: str) -> str:
    return re.sub(rf"[^{WORD_CHARACTERS}]+", "_", nfc(source.lower())).strip("_") or "slot"
