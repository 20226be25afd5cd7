"""Load recipes from TOML files, `--set` overrides and plain values, with one clear error for what is wrong."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from flows.config.places import anchored
from flows.config.schema import Recipe, preset_for
from flows.config.toml import decode_toml, parse_toml, parse_value
from synth.dataset.prompts import Template
from synth.errors import RecipeError, first_line, nearest

RECIPES = Path(__file__).parents[1] / "recipes"
_MAX_SHOWN = 100  # characters of a value in a message
_MAX_DEPTH = 16  # names in a dotted key; a recipe's deepest key has three


def recipe_names() -> list[str]:
    """The names of the shipped recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe, or a TOML file.

    Args:
        name_or_path: "sofas", or the path of a file; `extends = "sofas"` in a file starts from another recipe.
        overrides: "training.steps=200", "teacher.id=some/model": a dotted key and a TOML value; anything else after
            the equals sign is text.

    Raises:
        RecipeError: in one line, for a wrong recipe, key or value, with the nearest known name.
    """
    return validate(_overridden(_read(name_or_path), overrides), str(name_or_path))


def validate(values: Mapping[str, Any], source: str = "the recipe") -> Recipe:
    """Check plain values as a whole and make a recipe of them.

    Args:
        values: the recipe's tables and keys.
        source: where the values come from, for the message.

    Raises:
        RecipeError: for the first thing that is wrong.
    """
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{source}: {_explain(error)}") from error
    if (recipe.scenes is None) == (recipe.photos is None):
        raise RecipeError(f"{source}: give either [scenes], what is painted, or [photos], what photographs show")
    # An edit must change something, and apply to the texts.
    texts = recipe.texts()
    slots = texts.scene(0).slots if isinstance(texts, Template) else {}
    for name, edit in recipe.edits.items():
        if not edit:
            raise RecipeError(f"{source}: edits.{name} replaces no slot, so it changes nothing")
        texts.target("", slots, edit)
    return anchored(recipe)


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Override keys of a resolved recipe.

    A resolved recipe has its preset's values written out. So an override of `training.preset` resets [training]
    before the other overrides apply, whatever their order. A new teacher or kind of student does the same, but for
    that kind, if the recipe has the preset that suited the old one and the new one needs another.

    Args:
        recipe: as resolved.
        overrides: as for `load_recipe`.

    Raises:
        RecipeError: in one line, for a wrong key or value.
    """
    if not overrides:
        return recipe
    values: dict[str, Any] = recipe.model_dump(mode="json", exclude_none=True)
    kept: dict[str, Any] = {}
    if not any(override.partition("=")[0].strip() == "training.preset" for override in overrides):
        # Keep [training] unless the preset that suited was in use and another one suits now.
        new = validate(_overridden(values, overrides), recipe.name)
        before, after = (preset_for(each.teacher.id, each.training.student) for each in (recipe, new))
        if not recipe.training.preset == before != after:
            return new
        kept = {"student": new.training.student}
    return validate(_overridden({**values, "training": kept}, overrides), recipe.name)


def _read(name_or_path: str | Path) -> dict[str, Any]:
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.is_file():
        path = RECIPES / f"{name_or_path}.toml"
        if not path.exists():
            raise RecipeError(f"there is no recipe {str(name_or_path)!r}{nearest(str(name_or_path), recipe_names())}")
    try:
        values = parse_toml(decode_toml(path.read_bytes()))
    except FileNotFoundError as error:
        raise RecipeError(f"there is no recipe file {path}") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read as TOML: {first_line(error)}") from error
    if "extends" not in values:
        return values
    parent = values.pop("extends")
    if parent not in recipe_names() or path.resolve() == (RECIPES / f"{parent}.toml").resolve():
        raise RecipeError(f"{path} extends {parent!r}, which is none of {', '.join(recipe_names())}")
    return _merged(_read(parent), values)


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `over` into a copy of `base`, table by table."""
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
    names = [name.strip() for name in key.split(".", _MAX_DEPTH + 1)]
    if not equals or not all(names):
        raise RecipeError(f"--set {override!r} is not key=value, such as training.steps=200")
    if len(names) > _MAX_DEPTH:
        raise RecipeError(f"--set {override[:80]!r}...: no key of a recipe has so many parts")
    table = values
    for name in names[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override!r}: {name} is a value, and has no keys below it")
    table[names[-1]] = parse_value(text)


def _explain(error: ValidationError) -> str:
    """Describe the first problem in one line."""
    first = error.errors(include_url=False)[0]
    place = [str(part) for part in first["loc"] if part != "[key]"]
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}{nearest(place[-1], _known_keys(place[:-1]))}"
    if first["type"] == "missing":
        return f"{key} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if "[key]" in first["loc"]:
        return f"{key} {message}"
    if not key:  # the problem is of the recipe as a whole
        return message
    given = first["input"]
    shown = "" if isinstance(given, dict) else f", not {_short(repr(given))}"
    return f"{key}: {message[:1].lower()}{message[1:]}{shown}"


def _short(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _known_keys(place: Sequence[str]) -> list[str]:
    """The keys of the table at a place in the recipe."""
    model: type[BaseModel] = Recipe
    for name in place:
        annotation = model.model_fields[name].annotation
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        model = next(kind for kind in kinds if issubclass(kind, BaseModel))
    return list(model.model_fields)
