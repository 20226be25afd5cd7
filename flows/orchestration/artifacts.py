"""Pages, tables and links that a flow run shows in Prefect's UI. Call these only within a flow run."""

import base64
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from synth.images.encoding import decode_rgb
from synth.markdown import escape
from synth.words import ascii_slug

logger = logging.getLogger(__name__)

_MAX_IMAGE_SIDE = 1200  # px; the server's database holds the artifact
_URL = re.compile(r"(?!javascript|vbscript|data)[a-z][a-z0-9+.-]*(::[a-z0-9+.-]+)*://", re.IGNORECASE)
_URL_CHARACTERS = ":/?#@!$&'*+,;=%~"


def artifact_key(*names: str) -> str:
    """Make an artifact's key: lower-case ASCII letters, digits, hyphens. A key used again makes a new version."""
    return ascii_slug("-".join(names))


@contextmanager
def ignore_http_errors() -> Iterator[None]:
    """Log a failed request to Prefect instead of raising: a server that restarts must not cost a run its work."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        logger.info(f"the UI could not be updated: {error or type(error).__name__}")


def show_markdown(key: str, markdown: str, description: str) -> None:
    """Show a page in the UI."""
    from prefect.artifacts import create_markdown_artifact

    with ignore_http_errors():
        create_markdown_artifact(markdown, key=key, description=escape(description))


def show_table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Show a table in the UI, with a column for each key."""
    from prefect.artifacts import create_table_artifact

    with ignore_http_errors():
        create_table_artifact([dict(row) for row in rows], key=key, description=escape(description))


def show_link(key: str, place: str | Path, description: str) -> None:
    """A link in the UI: a URL, or a file on the worker's machine."""
    from prefect.artifacts import create_link_artifact

    text = str(place)
    is_url = _URL.match(text) is not None
    # Prefect writes [text](link) itself, so a bracket or a space in the address would end the link.
    link = quote(text, safe=_URL_CHARACTERS) if is_url else Path(place).resolve().as_uri()
    with ignore_http_errors():
        create_link_artifact(link, key=key, link_text=escape(text), description=escape(description))


def markdown_image(encoded: bytes, caption: str) -> str:
    """Embed an image in Markdown. Prefect's image artifacts need a public URL, which a file in a run folder lacks."""
    image = decode_rgb(encoded)
    image.thumbnail((_MAX_IMAGE_SIDE, _MAX_IMAGE_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"![{escape(caption)}](data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()})"
