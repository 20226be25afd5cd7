"""What the OpenAPI schema says of /v1/translate, whose body FastAPI does not read itself."""

from typing import Any

from inference.server.uploads import Ask

_TEXT = {"application/json": {"schema": {"type": "object", "properties": {"detail": {"type": "string"}}}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The edited image.", "content": {"image/png": {}}},
    401: {"description": "The token is missing or wrong.", "content": _TEXT},
    408: {"description": "The upload took too long.", "content": _TEXT},
    413: {"description": "Too many bytes or pixels.", "content": _TEXT},
    415: {"description": "No image, or in a format that is not read here.", "content": _TEXT},
    422: {"description": "A broken image, an unknown edit or model, a strength out of range.", "content": _TEXT},
    429: {"description": "Too many requests at once.", "content": _TEXT},
    503: {"description": "It waited too long for its turn, or there are too many connections.", "content": _TEXT},
}
_PROPERTIES = Ask.model_json_schema()["properties"]
_BINARY = {"type": "string", "format": "binary"}
REQUEST: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": schema,
            "description": schema.get("description", ""),
        }
        for name, schema in _PROPERTIES.items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["image"], "properties": {"image": _BINARY, **_PROPERTIES}}
            },
            "image/*": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
        },
    },
}
