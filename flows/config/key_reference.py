"""The page of a recipe's keys, made from the settings themselves.

python -m flows.config.key_reference > docs/recipe-keys.md
"""

import json
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from flows.config.schema import Recipe

_HEAD = """# Every key of a recipe

Made from the settings by `python -m flows.config.key_reference`; a test holds it to them. A recipe is TOML; from the command line
`--set training.steps=200` sets any key, and Prefect's form shows the same texts. A key without a default may be left
out, which is what the texts call None; the defaults of `[training]` are those of its preset `paper`.
"""
_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", dict: "table", list: "list"}


def page() -> str:
    """The whole page, as Markdown."""
    lines = [_HEAD]
    for title, model in _tables("", Recipe):
        heading = f"## [{title}]\n\n{' '.join((model.__doc__ or '').split())}" if title else "## At the top"
        lines.append(f"{heading}\n")
        lines.append("| key | what it takes | default | what it is |\n|---|---|---|---|")
        for name, field in model.model_fields.items():
            cells = (f"`{name}`", _kind(field), _default(field), " ".join((field.description or "").split()))
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _tables(title: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """A model and those inside it, each with its TOML table's name."""
    yield title, model
    for name, field in model.model_fields.items():
        if (inner := _model(field.annotation)) is not None:
            yield from _tables(f"{title}.{name}".lstrip("."), inner)


def _kind(field: FieldInfo) -> str:
    """The type in words, with its bounds."""
    if _model(field.annotation) is not None:
        return "table"
    bounds = [str(bound) for entry in field.metadata for bound in _bounds(entry)]
    return ", ".join([_words(field.annotation), *bounds])


def _words(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is typing.Annotated:
        bounds = [bound for entry in getattr(arguments[1], "metadata", []) for bound in _bounds(entry)]
        return ", ".join([_words(arguments[0]), *bounds])
    if origin in (typing.Union, types.UnionType):
        kinds = [_words(kind) for kind in arguments if kind is not type(None)]
        return " or ".join(dict.fromkeys(kinds))
    if origin is tuple:
        return f"list of {_words(arguments[0])}"
    return _NAMES[origin or annotation]


def _bounds(entry: Any) -> Iterator[str]:
    """What an annotation of pydantic's demands, in words."""
    for name, words in (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most")):
        if getattr(entry, name, None) is not None:
            yield f"{words} {getattr(entry, name):g}"
    if getattr(entry, "multiple_of", None) is not None:
        yield f"a multiple of {entry.multiple_of}"


def _default(field: FieldInfo) -> str:
    if _model(field.annotation) is not None:
        return ""
    if field.default is PydanticUndefined:
        return "none: give it"
    return "" if field.default is None else f"`{json.dumps(field.default)}`"  # which is how TOML writes them


def _model(annotation: Any) -> type[BaseModel] | None:
    """The settings that a table holds, or None for what is no table. A table that may be missing is one too."""
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


if __name__ == "__main__":
    print(page(), end="")
