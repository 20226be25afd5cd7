"""The API for people, at /docs: a page out of the schema, without scripts, that loads nothing from elsewhere."""

from html import escape
from typing import Any

CSP = "default-src 'none'; style-src 'self'; frame-ancestors 'none'"


def render(schema: dict[str, Any]) -> str:
    """The OpenAPI schema as HTML."""
    title = escape(schema["info"]["title"])
    operations = [
        _operation(method, path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}: the API</title>'
        f'<link rel="icon" href="data:,"><link rel="stylesheet" href="style.css"></head>\n<body><header><h1>{title}'
        f"</h1><p>{escape(schema['info'].get('description', ''))} For programs: "
        '<a href="openapi.json">openapi.json</a>.</p></header>\n<main>\n'
        + "\n".join(operations)
        + "\n</main></body></html>\n"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<h2>{method.upper()} {escape(path)}</h2>", f"<p>{escape(operation.get('description', ''))}</p>"]
    parameters = operation.get("parameters", [])
    if parameters:
        parts.append(_list("Query or form fields", [(p["name"], p.get("description", "")) for p in parameters]))
    bodies = operation.get("requestBody", {}).get("content", {})
    if bodies:
        parts.append(_list("Body", [(kind, "") for kind in bodies]))
    answers = [(status, answer.get("description", "")) for status, answer in operation["responses"].items()]
    return "\n".join([*parts, _list("Answers", answers)])


def _list(title: str, entries: list[tuple[str, str]]) -> str:
    items = "".join(f"<li><code>{escape(str(name))}</code> {escape(text)}</li>" for name, text in entries)
    return f"<h3>{title}</h3><ul>{items}</ul>"
