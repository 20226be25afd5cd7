"""What a person sees of a run: lines and bars in the terminal, and the same as logs and artifacts in Prefect's UI.

Everything here also works where there is no run: then it is the terminal alone.
"""

import base64
import io
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from PIL import Image
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import get_run_context
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from tqdm import tqdm

from flows.run.folder import slug

_SECONDS_BETWEEN_UPDATES = 5.0  # of an artifact: each is a request to the server
_IMAGE_SIDE = 1200  # px, at most: an artifact lies in the server's database


def in_a_run() -> bool:
    """Whether Prefect runs this code."""
    try:
        get_run_context()
    except MissingContextError:
        return False
    return True


def say(text: str) -> None:
    """One line: into the run's log, or to the terminal where there is no run or its log is off."""
    if in_a_run():
        logger = get_run_logger()
        if logger.isEnabledFor(logging.INFO):
            logger.info(text)
            return
    tqdm.write(text)


def key_of(*names: str) -> str:
    """An artifact's key: small letters, digits, hyphens. The same key in a later run is a newer version of it."""
    return slug("-".join(names))


@contextmanager
def for_the_ui() -> Iterator[None]:
    """What the UI cannot be told costs no run its work: the server may be restarting."""
    try:
        yield
    except httpx.HTTPError as error:
        say(f"the UI was not told: {error or type(error).__name__}")


def open_progress(what: str, recipe_name: str) -> UUID | None:
    """A progress artifact that bars may move; None where there is no run."""
    if not in_a_run():
        return None
    with for_the_ui():
        artifact: Any = create_progress_artifact(0.0, key_of(recipe_name, what), f"{recipe_name}: {what}")
        return UUID(str(artifact))
    return None


class Bar:
    """A bar in the terminal that moves an artifact too. It counts on from `initial`."""

    def __init__(
        self, desc: str, total: int, unit: str, initial: int = 0, artifact: UUID | None = None, leave: bool = True
    ) -> None:
        self.n, self.total = initial, total
        self._bar = tqdm(desc=desc, total=total, unit=unit, initial=initial, leave=leave)
        self._artifact, self._told = artifact, 0.0

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, n: int = 1) -> None:
        """`n` more are done."""
        self.n += n
        self._bar.update(n)
        now = time.monotonic()
        if self._artifact is None or (self.n < self.total and now - self._told < _SECONDS_BETWEEN_UPDATES):
            return
        self._told = now
        with for_the_ui():
            update_progress_artifact(self._artifact, 100 * self.n / max(1, self.total))

    def set_postfix(self, **figures: Any) -> None:
        """Figures behind the bar, in the terminal."""
        self._bar.set_postfix(refresh=False, **figures)  # shown at its next turn


def show_markdown(key: str, markdown: str, description: str) -> None:
    """A page in the UI."""
    if in_a_run():
        with for_the_ui():
            create_markdown_artifact(markdown, key=key, description=description)


def show_table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """A table in the UI, a column for each key."""
    if in_a_run():
        with for_the_ui():
            create_table_artifact([dict(row) for row in rows], key=key, description=description)


def show_link(key: str, place: str | Path, description: str) -> None:
    """A link in the UI: a URL, or a file on the worker's machine."""
    if in_a_run():
        link = str(place) if "://" in str(place) else Path(place).resolve().as_uri()
        with for_the_ui():
            create_link_artifact(link, key=key, link_text=str(place), description=description)


def markdown_image(encoded: bytes, caption: str) -> str:
    """An image inside Markdown: image artifacts want a public address, and a run folder has none."""
    picture = Image.open(io.BytesIO(encoded)).convert("RGB")
    picture.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return f"![{caption}](data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()})"
