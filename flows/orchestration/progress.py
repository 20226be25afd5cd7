"""Progress bars: in the terminal, and in Prefect's UI where a flow run is at work."""

import time
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import get_run_context
from prefect.exceptions import MissingContextError
from tqdm import tqdm

from flows.orchestration.artifacts import artifact_key, ignore_http_errors
from synth.markdown import escape

_SECONDS_BETWEEN_UPDATES = 5.0  # of an artifact: each is a request to the server


def in_a_run() -> bool:
    """Whether Prefect runs this code."""
    try:
        get_run_context()
    except MissingContextError:
        return False
    return True


def open_progress(what: str, recipe_name: str) -> UUID | None:
    """A progress artifact for a `Bar` to move; None where there is no run."""
    if not in_a_run():
        return None
    with ignore_http_errors():
        artifact: Any = create_progress_artifact(
            0.0, artifact_key(recipe_name, what), escape(f"{recipe_name}: {what}")
        )
        return UUID(str(artifact))
    return None


class Bar:
    """A bar in the terminal that also moves an artifact in the UI, from `initial` on."""

    def __init__(
        self, desc: str, total: int, unit: str, initial: int = 0, artifact: UUID | None = None, leave: bool = True
    ) -> None:
        self.n, self.total = initial, total
        self._bar = tqdm(desc=desc, total=total, unit=unit, initial=initial, leave=leave)
        self._artifact = artifact
        self._last_update = 0.0  # of the artifact, in seconds of the monotonic clock

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def update(self, n: int = 1) -> None:
        """Count `n` more as done."""
        self.n += n
        self._bar.update(n)
        now = time.monotonic()
        if self._artifact is None or (self.n < self.total and now - self._last_update < _SECONDS_BETWEEN_UPDATES):
            return
        self._last_update = now
        with ignore_http_errors():
            update_progress_artifact(self._artifact, 100 * self.n / max(1, self.total))

    def set_postfix(self, **values: Any) -> None:
        """Show values behind the bar, in the terminal."""
        self._bar.set_postfix(refresh=False, **values)  # shown at its next turn
