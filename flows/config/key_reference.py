"""Generate the reference page of a recipe's keys from the settings.

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

`python -m flows.config.key_reference` generates this page from the settings, and a test compares the two. A recipe is
TOML. On the command line `--set training.steps=200` sets any key, and Prefect's form shows the same texts. A key with
an empty default may be left out, which the texts call None. The defaults of `[training]` are those of its preset
`paper`.
"""
_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", dict: "table", list: "list"}


def page() -> str:
    """Write the whole page as Markdown."""
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
    """Yield a model and those inside it, each with its TOML table's name."""
    yield title, model
    for name, field in model.model_fields.items():
        if (inner := _model(field.annotation)) is not None:
            yield from _tables(f"{title}.{name}".lstrip("."), inner)


def _kind(field: FieldInfo) -> str:
    """Describe a key's type and bounds."""
    if _model(field.annotation) is not None:
        return "table"
    bounds = [str(bound) for entry in field.metadata for bound in _bounds(entry)]
    return ", ".join([_type_name(field.annotation), *bounds])


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is typing.Annotated:
        bounds = [bound for entry in getattr(arguments[1], "metadata", []) for bound in _bounds(entry)]
        return ", ".join([_type_name(arguments[0]), *bounds])
    if origin in (typing.Union, types.UnionType):
        kinds = [_type_name(kind) for kind in arguments if kind is not type(None)]
        return " or ".join(dict.fromkeys(kinds))
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    return _NAMES[origin or annotation]


def _bounds(entry: Any) -> Iterator[str]:
    """Describe the bounds in a pydantic annotation."""
    for name, phrase in (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most")):
        if (bound := getattr(entry, name, None)) is not None:
            yield f"{phrase} {bound:_}" if isinstance(bound, int) else f"{phrase} {bound:g}"
    if getattr(entry, "multiple_of", None) is not None:
        yield f"a multiple of {entry.multiple_of}"


def _default(field: FieldInfo) -> str:
    if _model(field.annotation) is not None:
        return ""
    if field.default is PydanticUndefined:
        return "required"
    return "" if field.default is None else f"`{json.dumps(field.default)}`"  # JSON and TOML write these values alike


def _model(annotation: Any) -> type[BaseModel] | None:
    """The settings in a table, which may be optional; None for a key that is not a table."""
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


if __name__ == "__main__":
    print(page(), end="")
