"""The recipe that a verb works with: from a file and the command line, or from a run folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.options import refuse_without_effect

if TYPE_CHECKING:
    from flows.config.schema import Recipe

_KEYS = {
    "teacher": "teacher.id",
    "num_images": "scenes.count",
    "runner": "operations.runner",
    "ray_address": "operations.ray_address",
}
"""Option -> the recipe's key that it is short for."""


def resolve(recipe: str, overrides: tuple[str, ...], trust: bool, **short: object) -> "Recipe":
    """Load a recipe with all that the command line sets.

    What runs code or reaches other machines is taken from the command line, and from the file only with `trust`.

    Args:
        recipe: the name of a shipped recipe, or a TOML file.
        overrides: the values of --set, which go over the short options.
        trust: take all that the file asks for.
        short: the options that are short for a key; None is an option that was not given.

    Raises:
        RecipeError: for a wrong recipe or override, or a key that needs `trust`.
        click.UsageError: for a short option that the recipe makes useless.
    """
    from flows.config.loading import load_recipe
    from flows.config.trust import check_trust, trust_process

    given = {
        option: f"{_KEYS[option]}={json.dumps(value, ensure_ascii=False)}"
        for option, value in short.items()
        if value is not None
    }
    if painting := given.keys() - {"teacher"}:
        others = [text for option, text in given.items() if option not in painting]
        if load_recipe(recipe, [*others, *overrides]).scenes is None:
            refuse_without_effect(painting, "on a recipe of photographs, which paints nothing")
    all_overrides = [*given.values(), *overrides]
    resolved = load_recipe(recipe, all_overrides)
    if short.get("ray_address") is not None and resolved.operations.runner != "ray":
        raise click.UsageError("--ray-address has no effect without --runner ray")
    if not trust:
        check_trust(resolved, all_overrides)
    # What is left was asked for here, so the processes that this one starts may take it too.
    trust_process()
    return resolved


def trusted_recipe_of(folder: Path, trust: bool) -> "Recipe":
    """Load the recipe of a run that the verb works on, as carefully as `resolve`.

    Raises:
        RunError: if the folder is not a run folder, or its dataset is elsewhere and `trust` is not given.
        RecipeError: for a key that needs `trust`.
    """
    from flows.config.trust import check_trust, trust_process
    from flows.run.folder import RunFolder

    recipe = recipe_of(folder)
    if not trust:
        check_trust(recipe)
        RunFolder(folder).check_dataset_is_local()
    trust_process()
    return recipe


def recipe_of(folder: Path) -> "Recipe":
    """Load the recipe of a run that the verb only reads.

    Raises:
        RunError: if the folder is not a run folder.
    """
    from flows.run.folder import RunFolder

    return RunFolder(folder).load_recipe()
