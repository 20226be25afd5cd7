"""TOML, as recipes are written and read."""

import json
import re
import tomllib
from typing import Any

import tomli_w

from flows.config.schema import Recipe

_MAX_DOTS = 32  # of one key: the parser's time grows with their square
_BARE = re.compile(r"[\w\s.\[\]\"'-]*")


def to_toml(recipe: Recipe) -> str:
    """The recipe as resolved, every value written out; `load_recipe` reads it back as the same recipe."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document's values.

    Raises:
        ValueError: in one line, for what is not TOML, is nested without end, or has absurd keys or numbers.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if any(_has_too_many_dots(piece) for piece in line.split("=")):
            raise ValueError(f"line {number}: a key of more than {_MAX_DOTS} dots")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _has_too_many_dots(piece: str) -> bool:
    """Whether the end of what stands before an equals sign, or a table's head, is a key of very many names."""
    key = re.split(r"[{,]", piece)[-1]
    return key.count(".") > _MAX_DOTS and _BARE.fullmatch(key) is not None


def parse_value(text: str) -> Any:
    """The value behind `--set KEY=`: TOML, or the text itself where it is not TOML."""
    try:
        values = parse_toml(f"value = {text}")
    except ValueError:
        return text.strip()
    return values["value"] if values.keys() == {"value"} else text.strip()


def toml_key(key: str) -> str:
    """A key as TOML writes it: in quotes where it has other than letters, digits, hyphens."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
