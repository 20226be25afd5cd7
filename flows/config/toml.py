"""Read and write recipes' TOML."""

import codecs
import json
import re
import tomllib
from typing import Any

import tomli_w

from flows.config.schema import Recipe

_MAX_DOTS = 32  # in one key: the parser's time grows with their square
_BARE = re.compile(r"[\w\s.\[\]\"'-]*")


def to_toml(recipe: Recipe) -> str:
    """Write a resolved recipe with all its values; `load_recipe` reads it back as the same recipe."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def decode_toml(content: bytes) -> str:
    """Decode a TOML file: UTF-8, or what its byte-order mark says. Notepad writes such marks, and PowerShell UTF-16.

    Raises:
        ValueError: in one line, if it is text in another encoding.
    """
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not UTF-8: save the file in this encoding") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML document.

    Raises:
        ValueError: in one line, if it is not TOML, is nested too deeply, or has absurd keys or numbers.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if any(_has_too_many_dots(piece) for piece in line.split("=")):
            raise ValueError(f"line {number}: a key of more than {_MAX_DOTS} dots")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _has_too_many_dots(piece: str) -> bool:
    """Whether text before an equals sign, or a table's header, ends in a key with too many dots."""
    key = re.split(r"[{,]", piece)[-1]
    return key.count(".") > _MAX_DOTS and _BARE.fullmatch(key) is not None


def parse_value(text: str) -> Any:
    """Parse the value of `--set KEY=VALUE`: TOML, or text if it is not TOML."""
    try:
        values = parse_toml(f"value = {text}")
    except ValueError:
        return text.strip()
    # Text with a line break may hold further keys: it is not one value.
    return values["value"] if values.keys() == {"value"} else text.strip()


def toml_key(key: str) -> str:
    """Write a key, in quotes if it has characters other than letters, digits, underscores and hyphens."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
