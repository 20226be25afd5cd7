"""A recipe as the parameter of a flow: itself or, where that is more than Prefect takes, the path of a file."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from flows.config.loading import load_recipe
from flows.config.schema import Recipe
from flows.config.toml import to_toml
from synth.files import write_text

_MAX_BYTES = 400_000  # of JSON; a Prefect server refuses parameters of more than 524,288 bytes in all


def _from_file(value: Any) -> Any:
    return load_recipe(value) if isinstance(value, str) else value


RecipeParameter = Annotated[Recipe, BeforeValidator(_from_file)]
"""The type of a flow's parameter `recipe`: a recipe, or the path of a TOML file on the machine that runs the flow."""


@contextmanager
def as_parameter(recipe: Recipe) -> Iterator[Any]:
    """Yield what to call a flow with: the recipe, or the path of a file that holds it until the flow has ended."""
    if len(json.dumps(recipe.model_dump(mode="json"))) <= _MAX_BYTES:
        yield recipe
        return
    with tempfile.TemporaryDirectory(prefix="distillery-recipe-") as folder:
        file = Path(folder) / "recipe.toml"
        write_text(file, to_toml(recipe))
        yield str(file)
