"""Places on this machine that a recipe names, as they are wherever the next command starts."""

import os
from pathlib import Path
from typing import Any

from flows.config.schema import Recipe
from inference.settings import OWN_VAE
from synth.settings import TeacherSettings
from synth.urls import is_url

_PLACES = {
    ("teacher", "id"): TeacherSettings().id,
    ("scenes", "filters", "clip"): None,
    ("export", "vae"): OWN_VAE,
    ("operations", "accelerate_config"): None,
}
"""Keys that name a model of the Hub, or a place on this machine if there is one of that name; and the one value, if
any, that means neither."""


def anchored(recipe: Recipe) -> Recipe:
    """Return the recipe with the paths that start in the working directory written from the root.

    A run folder keeps its recipe, and the next command may start elsewhere.
    """
    values: dict[str, Any] = {}
    for keys, neither in _PLACES.items():
        name = _get(recipe, keys)
        if name not in (None, neither) and Path(name).exists():
            values[".".join(keys)] = os.path.abspath(name)
    remote = recipe.operations.remote_dir
    if remote is not None and not is_url(remote):
        values["operations.remote_dir"] = os.path.abspath(Path(remote).expanduser())
    for key, value in values.items():
        recipe = _set(recipe, key.split("."), value)
    return recipe


def _get(settings: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        settings = getattr(settings, key) if settings is not None else None
    return settings


def _set(settings: Any, keys: list[str], value: Any) -> Any:
    """Return a copy of nested settings with one value replaced."""
    key, *below = keys
    return settings.model_copy(update={key: _set(getattr(settings, key), below, value) if below else value})
