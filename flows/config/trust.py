"""Keys that a recipe may set only if its origin is trusted: they run code, or reach other machines.

A recipe from somebody else is data. So is a run folder's recipe, and what a Prefect server hands to a worker. These
keys are accepted from the command line itself (`--set`); from anywhere else only if the process was started with
`--trust`, or with DISTILLERY_TRUST=1 in its environment.
"""

import os
from collections.abc import Sequence

from flows.config.schema import Recipe
from synth.errors import RecipeError

VARIABLE = "DISTILLERY_TRUST"
_ADVICE = (
    "if you trust where it comes from, repeat with --trust, or set the key yourself with --set; for a worker, set "
    f"{VARIABLE}=1 in its environment (docs/security.md)"
)


def requests(recipe: Recipe) -> dict[str, tuple[object, str]]:
    """The keys of a recipe that need trust: key -> its value, and what it does."""
    operations, scenes = recipe.operations, recipe.scenes
    found: dict[str, tuple[object | None, str]] = {
        "scenes.filters.python": (scenes and scenes.filters.python, "runs code"),
        "operations.remote_dir": (operations.remote_dir, "reads and writes remote storage"),
        "operations.ray_address": (operations.ray_address, "runs tasks on another machine"),
        "operations.accelerate_config": (operations.accelerate_config, "starts the processes that a file describes"),
    }
    if recipe.training.tracker == "wandb":
        found["training.tracker"] = ("wandb", "sends metrics to another machine")
    return {key: (value, effect) for key, (value, effect) in found.items() if value is not None}


def is_trusted() -> bool:
    """Whether this process, or the one that started it, was told to trust its recipe."""
    return os.environ.get(VARIABLE) == "1"


def trust_process() -> None:
    """Trust the recipe in this process and in those that it starts, as the command line asked."""
    os.environ[VARIABLE] = "1"


def check_trust(recipe: Recipe, given: Sequence[str] = ()) -> None:
    """Refuse a recipe with a key that needs trust, unless the process trusts it.

    Args:
        recipe: as resolved.
        given: overrides of the command line, "operations.remote_dir=s3://...": the keys that they set are trusted.

    Raises:
        RecipeError: naming the first such key.
    """
    if is_trusted():
        return
    named = {override.partition("=")[0].strip() for override in given}
    for key, (value, effect) in requests(recipe).items():
        if not any(key == name or key.startswith(f"{name}.") for name in named):
            raise RecipeError(f"{recipe.name} sets {key} = {value!r}, which {effect}: {_ADVICE}")
