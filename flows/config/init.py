"""A new recipe: the text of commented TOML that `load_recipe` reads."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.settings import TrainingSettings, scaled_to
from flows.config.edit_syntax import PhotoWords, Values, Words
from flows.config.loading import validate
from flows.config.naming import slug
from flows.config.schema import Recipe
from flows.config.toml import toml_key
from synth.errors import RecipeError
from synth.files import write_bytes

MINIATURE_IMAGES, MINIATURE_STEPS = 400, 400  # minutes on two CPU cores; a step looks at four images
MINIATURE_SIZE = 128  # px: as its own folder says, which is not opened for a recipe
PAPER_IMAGES, PAPER_SIZE = 5000, 512  # as published, pixels
NEGATIVE_PROMPT = "blurry, low quality, distorted, watermark, text, frame"  # for teachers that learnt from the web


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
        start: a recipe to take sizes, guidance and what it is measured on from.
    """
    small = teacher == "miniature"
    if negative_prompt is None:
        negative_prompt = "" if small else NEGATIVE_PROMPT
    count = start.to_paint().count if start else MINIATURE_IMAGES if small else PAPER_IMAGES
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
        *(_training_of_miniature(start) if small else _training_as_published()),
        *(_evaluation(start.evaluation.given) if start and start.evaluation.given else []),
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
    write_bytes(path, text.encode())
    return recipe


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
        "# every image; empty, it says nothing about them.",
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


def _training_of_miniature(start: Recipe | None) -> list[str]:
    preset = TrainingSettings(preset="short")
    training = scaled_to(preset, start.training.steps if start else MINIATURE_STEPS)
    omega = (start.training if start else preset).guidance_end
    return [
        "",
        "[training]",
        'preset = "short"  # for the miniature; "paper" is for Stable Diffusion',
        f"steps = {training.steps}  # of 4 images",
        f"lambda_id_steps = {training.lambda_id_steps}  # what lies around the edit is let go slowly, until the end",
        f"learning_rate_steps = {training.learning_rate_steps}",
        f"guidance_end = {omega}  # higher edits more, and spoils more of what lies around",
        f"# lambda_id_end = {preset.lambda_id_end}   # lower edits more, and spoils more of what lies around",
    ]


def _training_as_published() -> list[str]:
    return [
        "",
        "[training]",
        'preset = "paper"  # the published values for 512 px; not run by this project',
        "# steps = 125_000        # about 23 hours on one A100, as published",
        "# micro_batch_size = 1   # where memory is short: slower, and trains the same",
        "# guidance_end = 25.0    # higher edits more, and spoils more of what lies around",
        "# lambda_id_end = 0.1    # lower edits more, and spoils more of what lies around",
    ]


def _evaluation(given: Mapping[str, str]) -> list[str]:
    return ["", "[evaluation]", f"given = {_inline(given)}  # before the edit, as in all that is painted"]


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
