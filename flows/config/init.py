"""Write a new recipe as commented TOML."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.costs import A100, hours_of_training
from distill.settings import TrainingSettings, scaled_to
from flows.config.edit_syntax import ParsedPhotoText, ParsedSceneText, Values
from flows.config.loading import validate
from flows.config.schema import Recipe
from flows.config.teacher_kind import MINIATURE, TeacherKind, kind_of
from flows.config.toml import toml_key
from synth.errors import RecipeError
from synth.files import make_folder, write_bytes
from synth.words import slug

MINIATURE_IMAGES, MINIATURE_STEPS = 400, 400  # takes minutes on two CPU cores
PAPER_IMAGES = 5000  # as published
NEGATIVE_PROMPT = "blurry, low quality, distorted, watermark, text, frame"  # for teachers trained on web images


def new_recipe(
    name: str,
    parsed: ParsedSceneText | ParsedPhotoText,
    teacher: str = "miniature",
    negative_prompt: str | None = None,
    start: Recipe | None = None,
) -> str:
    """Compose the text of a recipe.

    Args:
        name: the recipe's name.
        parsed: the texts of painted scenes or of photographs, and the edits.
        teacher: `miniature`, a folder or a Hub id.
        negative_prompt: what the teacher should avoid (default: one that suits the teacher).
        start: a recipe from which to take sizes, guidance and the evaluation's conditions.

    Returns:
        TOML that `load_recipe` reads.
    """
    kind, _ = kind_of(teacher)
    small = kind is MINIATURE
    if negative_prompt is None:
        negative_prompt = "" if small else NEGATIVE_PROMPT
    default_count = MINIATURE_IMAGES if small else PAPER_IMAGES
    count = start.to_paint().count if start else default_count
    if isinstance(parsed, ParsedPhotoText):
        texts = _photographs(parsed)
        about_edits = _EDITS_OF_PHOTOGRAPHS
    else:
        texts = _scenes(parsed, count, negative_prompt, kind)
        about_edits = _EDITS_OF_SCENES
    lines = [
        f"# {name}: {', '.join(parsed.edits)}.",
        "# docs/recipe-keys.md explains every key; `distillery preview` shows whether the prompts work.",
        f"name = {_toml(name)}",
        'validated_on = "nothing yet"  # what you tried it on, for the users of the model',
        "",
        "[teacher]",
        f"id = {_toml(teacher)}  # miniature, a folder in diffusers' format, or a Hub id",
        *texts,
        "",
        *about_edits,
        "[edits]",
        *(f"{toml_key(edit)} = {_inline(values)}" for edit, values in parsed.edits.items()),
        *(_training_of_miniature(start) if small else _training_of(kind, len(parsed.edits))),
        *(_evaluation(start.evaluation.given) if start and start.evaluation.given else []),
        "",
    ]
    return "\n".join(lines)


def write_recipe(text: str, path: Path) -> Recipe:
    """Check a recipe's text, then write it.

    Returns:
        The recipe.

    Raises:
        RecipeError: if the recipe is wrong, or the file exists.
    """
    if path.exists():
        raise RecipeError(f"{path} exists already: choose another name or --out, or delete it")
    recipe = validate(tomllib.loads(text), str(path))
    make_folder(path.parent)
    write_bytes(path, text.encode())
    return recipe


def file_name(name: str) -> Path:
    """The default file for a recipe of this name."""
    return Path(f"{slug(name)}.toml")


_EDITS_OF_SCENES = [
    "# The source prompt is the image's own. The target prompt is the same with the edit's words in its slots,",
    "# so the two differ only in the edit.",
]
_EDITS_OF_PHOTOGRAPHS = ["# Each edit is one target prompt for all photographs: what they show after the edit."]


def _photographs(parsed: ParsedPhotoText) -> list[str]:
    return [
        "",
        "# The source prompt of all photographs. It should be true of every image; an empty one describes none.",
        "[photos]",
        f"source = {_toml(parsed.source)}",
    ]


def _scenes(parsed: ParsedSceneText, count: int, negative_prompt: str, kind: TeacherKind) -> list[str]:
    size = []
    if kind.image_size is not None:
        size = [f"image_size = {kind.image_size}  # px, as published; left out: the teacher's own, such as 768"]
    elif kind is not MINIATURE:
        size = [f"# image_size = {kind.usual_size}  # px; left out: the teacher's own"]
    avoid = [f"negative_prompt = {_toml(negative_prompt)}"] if negative_prompt else []
    return [
        "",
        "# What the teacher paints. A slot in braces takes each of its values in turn. The more the scenes vary and",
        "# name here, the less an edit changes by mistake.",
        "[scenes]",
        f"template = {_toml(parsed.template)}",
        f"count = {count}  # images to paint; the dataset can grow later",
        "seed = 0",
        *size,
        *avoid,
        "",
        "[scenes.slots]",
        *(f"{toml_key(name)} = {_values(values)}" for name, values in parsed.slots.items()),
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
        f"lambda_id_steps = {training.lambda_id_steps}  # the identity loss decays until the end",
        f"learning_rate_steps = {training.learning_rate_steps}",
        f"guidance_end = {omega}  # higher edits more, and changes more of the background",
        f"# lambda_id_end = {preset.lambda_id_end}   # lower edits more, and changes more of the background",
    ]


def _training_of(kind: TeacherKind, num_edits: int) -> list[str]:
    if kind.student == "compact":
        return [
            "",
            "[training]",
            f'student = "compact"  # the kind that learns from {kind.name}',
            'preset = "compact"    # run by nobody yet; docs/teachers.md says what its values rest on',
            f"# steps = {TrainingSettings(preset='compact').steps:_}         # `distillery preview` counts the hours",
            "# guidance_end = 25.0    # higher edits more, and changes more of the background",
            "# lambda_id_end = 0.1    # lower edits more, and changes more of the background",
        ]
    hours = hours_of_training(A100, TrainingSettings(preset="paper"), num_edits)
    return [
        "",
        "[training]",
        'preset = "paper"  # the published values for 512 px; not run by this project',
        f"# steps = 125_000        # about {hours:.0f} hours on one A100, counted from FLOPs",
        "# micro_batch_size = 1   # for little memory: slower, with the same result",
        "# guidance_end = 25.0    # higher edits more, and changes more of the background",
        "# lambda_id_end = 0.1    # lower edits more, and changes more of the background",
    ]


def _evaluation(given: Mapping[str, str]) -> list[str]:
    return ["", "[evaluation]", f"given = {_inline(given)}  # what every painted scene has before the edit"]


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a TOML string


def _values(values: Values) -> str:
    if isinstance(values, dict):
        return "{ " + ", ".join(f"{_toml(value)} = {weight}" for value, weight in values.items()) + " }"
    return _toml_list(values)


def _toml_list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_toml, values))}]"


def _inline(values: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{toml_key(name)} = {_toml(value)}" for name, value in values.items()) + " }"
