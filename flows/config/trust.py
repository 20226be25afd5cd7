"""What a recipe may ask for only if its origin is trusted: to run code, or to reach outside.

A recipe from somebody else is data. So is a run folder's, and what a Prefect server hands to a worker. These keys are
taken from the command line itself (`--set`), and from elsewhere only after an explicit yes where the process starts:
`--trust`, or DISTILLERY_TRUST=1 in its environment.
"""

import os
from collections.abc import Sequence

from flows.config.schema import Recipe
from synth.errors import RecipeError

VARIABLE = "DISTILLERY_TRUST"
_ADVICE = (
    "if you trust where it comes from, repeat with --trust, or give the key yourself with --set; for a worker, put "
    f"{VARIABLE}=1 into its environment (docs/security.md)"
)


def requests(recipe: Recipe) -> dict[str, tuple[object, str]]:
    """What the recipe asks for beyond computing: key -> its value, and what that does."""
    operations, scenes = recipe.operations, recipe.scenes
    found: dict[str, tuple[object | None, str]] = {
        "scenes.filters.python": (scenes and scenes.filters.python, "runs code"),
        "operations.remote_dir": (operations.remote_dir, "reads and writes a remote storage"),
        "operations.ray_address": (operations.ray_address, "runs tasks on another machine"),
        "operations.accelerate_config": (operations.accelerate_config, "starts processes as a file says"),
    }
    if recipe.training.tracker == "wandb":
        found["training.tracker"] = ("wandb", "sends metrics to another machine")
    return {key: (value, what) for key, (value, what) in found.items() if value is not None}


def is_trusted() -> bool:
    """Whether this process was started with a yes, or by one that was."""
    return os.environ.get(VARIABLE) == "1"


def trust_process() -> None:
    """Take this process's recipe as trusted, and so in the processes that it starts: the command line has said so."""
    os.environ[VARIABLE] = "1"


def check_trust(recipe: Recipe, given: Sequence[str] = ()) -> None:
    """Refuse a recipe that asks for more than computing, unless the process trusts it.

    Args:
        recipe: as resolved.
        given: overrides of the command line, "operations.remote_dir=s3://...": what they name was asked for here.

    Raises:
        RecipeError: naming the first such key.
    """
    if is_trusted():
        return
    named = {override.partition("=")[0].strip() for override in given}
    for key, (value, what) in requests(recipe).items():
        if not any(key == name or key.startswith(f"{name}.") for name in named):
            raise RecipeError(f"{recipe.name} sets {key} = {value!r}, which {what}: {_ADVICE}")
