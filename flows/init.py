"""A new recipe from an edit in words: commented TOML that `load_recipe` reads.

What pictures show is one text, and an edit changes it in one of three ways:

    snowy=summer street -> snowy street      words of the text give way to others
    purple=color=purple, material=velvet     slots of the text, such as {color}, take other values
    sunset=at sunset                         words are added at the end

Photographs have no words of their own: one text stands for all of them, which may be empty, and an edit is the whole
text of what they shall show.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.recipe import Recipe, load_recipe, toml_key, validate
from flows.run_folder import slug, write_whole
from synth.errors import RecipeError

Values = list[str] | dict[str, int]
"""Of a slot: a list, or values with weights."""

MINIATURE_IMAGES, MINIATURE_STEPS = 400, 400  # minutes on two CPU cores; a step looks at four images
MINIATURE_SIZE = 128  # px: as its own folder says, which is not opened for a recipe
PAPER_IMAGES, PAPER_SIZE = 5000, 512  # as published, pixels
NEGATIVE_PROMPT = "blurry, low quality, distorted, watermark, text, frame"  # for teachers that learnt from the web

_ADDED = "added"  # the slot of words that edits add
_NAME = re.compile(r"([a-z0-9][a-z0-9_-]*)\s*=\s*(.*)", re.DOTALL)
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
        subject: what the pictures show; it may have slots in braces.
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


def new_recipe(
    name: str,
    words: Words | PhotoWords,
    teacher: str = "miniature",
    negative_prompt: str | None = None,
    start: Recipe | None = None,
) -> str:
    """The text of a recipe.

    Args:
        name: of the recipe.
        words: what is painted or what photographs show, and the edits.
        teacher: `miniature`, a folder or a Hub id.
        negative_prompt: what the teacher shall keep away from; None is a start that suits the teacher.
        start: a recipe to take sizes from.
    """
    small = teacher == "miniature"
    if negative_prompt is None:
        negative_prompt = "" if small else NEGATIVE_PROMPT
    count = start.to_paint().count if start else MINIATURE_IMAGES if small else PAPER_IMAGES
    steps = start.training.steps if start else MINIATURE_STEPS
    if isinstance(words, PhotoWords):
        shown, about_edits = _photographs(words), _EDITS_OF_PHOTOGRAPHS
    else:
        shown, about_edits = _scenes(words, count, negative_prompt, small), _EDITS_OF_SCENES
    lines = [
        f"# {name}: {', '.join(words.edits)}.",
        "# Every key is explained in docs/recipe-keys.md; `distillery preview` shows whether the words work.",
        f"name = {_toml(name)}",
        'validated_on = "nothing yet"  # what you tried it on, for whoever gets the model',
        "",
        "[teacher]",
        f"id = {_toml(teacher)}  # miniature, a folder in diffusers' format, or a Hub id",
        *shown,
        "",
        *about_edits,
        "[edits]",
        *(f"{edit} = {_inline(values)}" for edit, values in words.edits.items()),
        *_training(small, steps),
        "",
    ]
    return "\n".join(lines)


def write_recipe(text: str, path: Path) -> Recipe:
    """Write a recipe's text once it is known to be one; returns what it says.

    Raises:
        RecipeError: if the recipe is wrong, or the file is there already.
    """
    if path.exists():
        raise RecipeError(f"{path} is there already: choose another name or --out, or delete it")
    recipe = validate(tomllib.loads(text), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
    return recipe


def words_from(shipped: str, edits: Sequence[str]) -> tuple[Words, Recipe]:
    """The words of a recipe that comes with the project, its edits replaced where others are given.

    Raises:
        RecipeError: if there is no such recipe, or an edit that does not fit it.
    """
    recipe = load_recipe(shipped)
    scenes = recipe.to_paint()
    own = Words(scenes.template, scenes.slots, recipe.edits)
    return (words_of(own.template, edits, own.slots) if edits else own), recipe


def file_name(name: str) -> Path:
    """Where a recipe of this name goes unless said otherwise."""
    return Path(f"{slug(name)}.toml")


_EDITS_OF_SCENES = [
    "# Each edit puts its own words into the slots of every image's own prompt: those words are the target,",
    "# the image's own prompt is the source. They should differ in the edit alone.",
]
_EDITS_OF_PHOTOGRAPHS = [
    "# Each edit is the text of what the photographs shall show, the target prompt of all of them."
]


def _photographs(words: PhotoWords) -> list[str]:
    return [
        "",
        "# Photographs have no words of their own: this one text is the source of all of them. It should be true of",
        "# every picture; empty, it says nothing about them.",
        "[photos]",
        f"source = {_toml(words.source)}",
    ]


def _scenes(words: Words, count: int, negative_prompt: str, small: bool) -> list[str]:
    size = [] if small else [f"image_size = {PAPER_SIZE}  # px; leave it out for the teacher's own (768 or 1024 px)"]
    avoid = [f"negative_prompt = {_toml(negative_prompt)}"] if negative_prompt else []
    return [
        "",
        "# What the teacher paints. A slot in braces takes each of its values in turn: the more that varies and is",
        "# named here, the less an edit can change by mistake.",
        "[scenes]",
        f"template = {_toml(words.template)}",
        f"count = {count}  # how many are painted; a set can grow later",
        "seed = 0",
        *size,
        *avoid,
        "",
        "[scenes.slots]",
        *(f"{toml_key(name)} = {_values(values)}" for name, values in words.slots.items()),
    ]


def _training(small: bool, steps: int) -> list[str]:
    if small:
        return [
            "",
            "[training]",
            'preset = "short"  # for the miniature; "paper" is for Stable Diffusion',
            f"steps = {steps}  # of 4 images",
            f"lambda_id_steps = {steps}  # what lies around the edit is let go slowly, until the end",
            f"learning_rate_steps = {steps}",
            "# guidance_end = 5.5     # higher edits more, and spoils more of what lies around",
            "# lambda_id_end = 0.04   # lower edits more, and spoils more of what lies around",
        ]
    return [
        "",
        "[training]",
        'preset = "paper"  # the published values for 512 px; not run by this project',
        "# steps = 125_000        # about 23 hours on one A100, as published",
        "# micro_batch_size = 1   # where memory is short: slower, and trains the same",
        "# guidance_end = 25.0    # higher edits more, and spoils more of what lies around",
        "# lambda_id_end = 0.1    # lower edits more, and spoils more of what lies around",
    ]


def _named(text: str, slots: Mapping[str, Values]) -> tuple[str, str]:
    """An edit's name and what it changes."""
    match = _NAME.fullmatch(text.strip())
    if match is None:
        if "->" not in text:
            raise RecipeError(f'--edit {text!r} has no name: write it as NAME=..., such as "sunset=at sunset"')
        name, change = slug(text.rpartition("->")[2]), text.strip()
    else:
        name, change = match[1], " ".join(match[2].split())
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


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # JSON writes strings as TOML reads them


def _values(values: Values) -> str:
    if isinstance(values, dict):
        return "{ " + ", ".join(f"{_toml(value)} = {weight}" for value, weight in values.items()) + " }"
    return _toml_list(values)


def _toml_list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_toml, values))}]"


def _inline(values: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{toml_key(name)} = {_toml(value)}" for name, value in values.items()) + " }"
