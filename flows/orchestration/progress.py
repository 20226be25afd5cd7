"""Progress bars in the terminal and, within a flow run, in Prefect's UI.

Processes that paint or train for a flow have bars as well, and are spared the second that importing Prefect takes.
"""

import sys
import time
from typing import Any
from uuid import UUID

from tqdm import tqdm

from flows.orchestration.artifacts import artifact_key, ignore_http_errors
from synth.markdown import escape

_SECONDS_BETWEEN_UPDATES = 5.0  # of an artifact; each update is a request to the server


def in_a_run() -> bool:
    """Whether this code runs within a flow or task run."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import get_run_context
    from prefect.exceptions import MissingContextError

    try:
        get_run_context()
    except MissingContextError:
        return False
    return True


def open_progress(what: str, recipe_name: str) -> UUID | None:
    """Create a progress artifact for a `Bar` to update; None outside a run."""
    if not in_a_run():
        return None
    from prefect.artifacts import create_progress_artifact

    with ignore_http_errors():
        artifact: Any = create_progress_artifact(
            0.0, artifact_key(recipe_name, what), escape(f"{recipe_name}: {what}")
        )
        return UUID(str(artifact))
    return None


class Bar:
    """A progress bar in the terminal that also updates an artifact in the UI.

    Args:
        desc: the label.
        total: how many units there are.
        unit: what is counted, e.g. "step".
        initial: units that were done before.
        artifact: of `open_progress`.
        leave: keep the bar in the terminal after it is closed.
    """

    def __init__(
        self, desc: str, total: int, unit: str, initial: int = 0, artifact: UUID | None = None, leave: bool = True
    ) -> None:
        self.n = initial
        self.total = total
        self._bar = tqdm(desc=desc, total=total, unit=unit, initial=initial, leave=leave)
        self._artifact = artifact
        self._last_update = 0.0  # of the artifact, in seconds of the monotonic clock

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the bar where it is."""
        self._bar.close()

    def update(self, n: int = 1) -> None:
        """Count `n` more units as done."""
        self.n += n
        self._bar.update(n)
        # The last update always goes out, so that a finished artifact shows 100.
        now = time.monotonic()
        if self._artifact is None or (self.n < self.total and now - self._last_update < _SECONDS_BETWEEN_UPDATES):
            return
        self._last_update = now
        from prefect.artifacts import update_progress_artifact

        with ignore_http_errors():
            update_progress_artifact(self._artifact, 100 * self.n / max(1, self.total))

    def advance_to(self, n: int) -> None:
        """Count units as done up to the `n`th. Where nothing has moved, no request goes out."""
        if n != self.n:
            self.update(n - self.n)

    def set_postfix(self, **values: Any) -> None:
        """Show values behind the bar, in the terminal."""
        self._bar.set_postfix(refresh=False, **values)  # shown at the next update
