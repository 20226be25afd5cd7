"""A recipe: which teacher, which scenes, which edits, and how to train, export and measure. TOML, or a form.

This module composes the rooms' settings and owns none. Nothing heavy is imported, so that a wrong recipe is refused
at once.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, StringConstraints, ValidationError, field_validator, model_validator

from distill.settings import PRESETS, EvaluationSettings, TrainingSettings
from flows.config.operations import OperationSettings
from inference.settings import ExportSettings
from synth.dataset.prompts import PhotoTexts, Template
from synth.errors import RecipeError
from synth.settings import PhotoTextSettings, SceneSettings, Settings, Substitution, TeacherSettings

RECIPES = Path(__file__).parents[1] / "recipes"
EditName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
"""Lower case, digits, hyphens: it becomes part of file names."""


class Recipe(Settings):
    """All that a run depends on. The run folder keeps it as resolved, in `recipe.toml`."""

    name: str
    """Of the recipe, its run folders and its deployment."""
    validated_on: str = "nothing yet"
    """What its settings were tried on, for whoever gets the model."""
    teacher: TeacherSettings = TeacherSettings()
    """Who paints and teaches."""
    scenes: SceneSettings | None = None
    """What is painted. A recipe has this or `photos`."""
    photos: PhotoTextSettings | None = None
    """What is said of photographs, for a set of one's own (`distillery import-photos`)."""
    edits: Annotated[dict[EditName, Substitution], Field(min_length=1)]
    """Each edit's name, and the slots that it gives other values: `red-leather = { color = "red" }`. For photographs
    see `photos.source`."""
    training: TrainingSettings
    """How the student is trained."""
    export: ExportSettings = ExportSettings()
    """Which model files are written."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """What the student is measured on."""
    operations: OperationSettings = OperationSettings()
    """How runs are looked after."""

    @model_validator(mode="before")
    @classmethod
    def _take_the_teachers_preset(cls, given: Any) -> Any:
        """What trains on the miniature within minutes would wreck a Stable Diffusion, and the other way round.

        So a recipe for both names no preset, and what it wants otherwise of one stands in a table of that name.
        """
        if not isinstance(given, dict):
            return given
        training, teacher = (given.get(part) or {} for part in ("training", "teacher"))
        if not isinstance(training, dict) or not isinstance(teacher, dict):
            return given
        preset = training.get("preset", _preset_for(teacher.get("id", TeacherSettings().id)))
        tables = {name: training[name] for name in PRESETS if isinstance(training.get(name), dict)}
        known = [key for key in TrainingSettings.model_fields if key != "preset"]
        for name, table in tables.items():  # also that of the preset which is not used now
            for key in table.keys() - known:
                raise ValueError(f"unknown key training.{name}.{key}{_nearest(key, known)}")
        beside = {key: value for key, value in training.items() if key not in tables}
        return {**given, "training": {**tables.get(preset, {}), **beside, "preset": preset}}

    @field_validator("edits")
    @classmethod
    def _in_one_order(cls, edits: dict[str, Substitution]) -> dict[str, Substitution]:
        """By name: an edit's number is its place, and a server's database keeps no order (Postgres' jsonb)."""
        return dict(sorted(edits.items()))

    def to_paint(self) -> SceneSettings:
        """The scenes.

        Raises:
            RecipeError: for a recipe of photographs.
        """
        if self.scenes is None:
            raise RecipeError(
                f"{self.name} is a recipe of photographs, and there is nothing to paint: make a set of yours with "
                "`distillery import-photos`, and train on it with `distillery distill RECIPE --data SET`"
            )
        return self.scenes

    def texts(self) -> Template | PhotoTexts:
        """What the images' texts are.

        Raises:
            RecipeError: for a template that cannot be filled.
        """
        return Template(self.to_paint()) if self.photos is None else PhotoTexts(self.photos)


def recipe_names() -> list[str]:
    """The recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe that comes with the project, or a TOML file.

    Args:
        name_or_path: "sofas", or the path of a file; `extends = "sofas"` in a file starts from another recipe.
        overrides: "training.steps=200", "teacher.id=some/model": a dotted key and a TOML value; what is no TOML
            value is taken as text.

    Raises:
        RecipeError: in one line, for a recipe, key or value that is wrong, with the nearest known name.
    """
    return validate(_overridden(_read(name_or_path), overrides), str(name_or_path))


def validate(values: Mapping[str, Any], source: str = "the recipe") -> Recipe:
    """A recipe from plain values, checked as a whole.

    Raises:
        RecipeError: for the first thing that is wrong.
    """
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{source}: {_explain(error)}") from error
    if (recipe.scenes is None) == (recipe.photos is None):
        raise RecipeError(f"{source}: give either [scenes], what is painted, or [photos], what photographs show")
    texts = recipe.texts()
    slots = texts.scene(0).slots if isinstance(texts, Template) else {}
    for name, edit in recipe.edits.items():
        if not edit:
            raise RecipeError(f"{source}: edits.{name} replaces no slot: it would change nothing")
        texts.target("", slots, edit)
    return recipe


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """A resolved recipe with some keys changed: "training.steps=200", as `load_recipe` takes them.

    In a resolved recipe the preset's values are written out. So a new `training.preset` starts the training's
    settings anew, and the other overrides go over it, whatever their order; and so does a teacher that wants another
    preset than the one before it, whose preset the recipe has.

    Raises:
        RecipeError: in one line, for a key or value that is wrong.
    """
    if not overrides:
        return recipe
    values: dict[str, Any] = recipe.model_dump(mode="json", exclude_none=True)
    if not any(override.partition("=")[0].strip() == "training.preset" for override in overrides):
        new = validate(_overridden(values, overrides), recipe.name)
        if not recipe.training.preset == _preset_for(recipe.teacher.id) != _preset_for(new.teacher.id):
            return new
    return validate(_overridden({**values, "training": {}}, overrides), recipe.name)


def _preset_for(teacher: str) -> str:
    return "short" if teacher == TeacherSettings().id else "paper"


def to_toml(recipe: Recipe) -> str:
    """The recipe as resolved, every value written out; `load_recipe` reads it back as the same recipe."""
    return "\n".join(_toml_lines(recipe.model_dump(mode="json", exclude_none=True), ())) + "\n"


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value: {"training.steps": 140, ...}. An edit stays one value."""
    flat: dict[str, Any] = {}
    for section, value in recipe.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{section}.{key}": inner for key, inner in value.items()}
        else:
            flat[section] = value
    return flat


def _read(name_or_path: str | Path) -> dict[str, Any]:
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.is_file():
        path = RECIPES / f"{name_or_path}.toml"
        if not path.exists():
            raise RecipeError(
                f"there is no recipe {str(name_or_path)!r}{_nearest(str(name_or_path), recipe_names())}"
            )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"there is no recipe file {path}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as TOML: {error}") from error
    if "extends" not in values:
        return values
    parent = values.pop("extends")
    if parent not in recipe_names() or path.resolve() == (RECIPES / f"{parent}.toml").resolve():
        raise RecipeError(f"{path} extends {parent!r}, which is none of {', '.join(recipe_names())}")
    return _merged(_read(parent), values)


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def _overridden(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    result = deepcopy(dict(values))
    for override in overrides:
        _override(result, override)
    return result


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise RecipeError(f"--set {override!r} is no key=value, such as training.steps=200")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = values
    for name in names[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override!r}: {name} is a value and has no keys below it")
    table[names[-1]] = value


def _explain(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False)[0]
    place = [str(part) for part in first["loc"] if part != "[key]"]
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(place[-1], _known_keys(place[:-1]))}"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "string_pattern_mismatch":
        return f"{key} is no name for an edit: use lower-case letters, digits and hyphens"
    message = first["msg"].removeprefix("Value error, ")
    if not key:  # of the recipe as a whole
        return message
    given = first["input"]
    shown = "" if isinstance(given, dict) else f", not {given!r}"
    return f"{key}: {message[:1].lower()}{message[1:]}{shown}"


def _known_keys(place: Sequence[str]) -> list[str]:
    """The keys that the settings at a place in the recipe have."""
    model: type[BaseModel] = Recipe
    for name in place:
        annotation = model.model_fields[name].annotation
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        model = next(kind for kind in kinds if issubclass(kind, BaseModel))
    return list(model.model_fields)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """TOML of a table: its own values first, then the tables below it. JSON writes strings as TOML reads them."""
    lines = [f"[{'.'.join(map(toml_key, path))}]"] if path else []
    lines += [
        f"{toml_key(key)} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in table.items()
        if not isinstance(value, dict)
    ]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += ["", *_toml_lines(value, (*path, key))]
    return lines


def toml_key(key: str) -> str:
    """A key as TOML writes it: in quotes where it has other than letters, digits, hyphens."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
