"""Old runs go when the recipe says so: `operations.keep_runs`.

A run that goes is first given a name that nobody else gives, `.old-NAME-RANDOM`, and a file in it that repeats this
name and is deleted last. So what a killed process leaves of it can be told from anybody's own `.old-photos`.
"""

import logging
import os
import re
import secrets
import shutil
from pathlib import Path

from flows.config.loading import load_recipe
from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from flows.run.promotion import latest_model, pointer_of
from synth.errors import DistilleryError
from synth.files import write_text

logger = logging.getLogger(__name__)

_DOOMED = re.compile(r"\.old-.+-[0-9a-f]{16}", re.DOTALL)
_MARKER = ".being-deleted"


def clear_old_runs(recipe: Recipe, out: Path) -> list[Path]:
    """Delete the oldest finished runs of the recipe beside `out`, until `operations.keep_runs` are left.

    Never deleted: `out` itself, the run that `latest` names, a run without a report (it may be at work, or go on),
    another recipe's, and anything that does not prove to be a run. A dataset that lies elsewhere stays.

    Returns:
        What was deleted.

    Raises:
        RunError: if the recipe's pointer is damaged.
    """
    keep = recipe.operations.keep_runs
    if keep is None:
        return []
    beside = sorted(out.parent.iterdir())
    for leftover in filter(_is_leftover, beside):  # of a process that was killed here
        _delete(leftover)
    ended = {path: when for path in beside if (when := _finished_at(path, recipe.name)) is not None}
    pointer = pointer_of(recipe, out)
    spared = {out.resolve()} | ({latest_model(pointer).parent.resolve()} if pointer.exists() else set())
    newest_first = sorted(ended, key=ended.__getitem__, reverse=True)
    return [path for path in newest_first[keep:] if path.resolve() not in spared and _retire(path)]


def _finished_at(path: Path, name: str) -> int | None:
    """When the recipe's run in a folder ended, in ns; None for what is not such a run, or cannot be read."""
    run = RunFolder(path)
    needed = (run.recipe, run.report, run.stages)
    try:
        if path.is_symlink() or any(file.is_symlink() or not file.is_file() for file in needed):
            return None
        # A report beside no stage is not this project's.
        if load_recipe(run.recipe).name != name or not run.fingerprint_of("export"):
            return None
        return run.report.stat().st_mtime_ns
    except (DistilleryError, OSError, ValueError):  # damaged, or of another version: nobody here can say whose it is
        return None


def _is_leftover(path: Path) -> bool:
    marker = path / _MARKER
    try:
        if _DOOMED.fullmatch(path.name) is None or path.is_symlink() or marker.is_symlink() or not marker.is_file():
            return False
        return marker.read_bytes() == os.fsencode(path.name)
    except OSError:
        return False


def _retire(path: Path) -> bool:
    """Rename, then delete: no half of a run is ever taken for one. Whether it could be."""
    doomed = path.with_name(f".old-{path.name[:200]}-{secrets.token_hex(8)}")
    try:
        write_text(path / _MARKER, doomed.name)
        path.rename(doomed)
    except (OSError, DistilleryError) as error:
        logger.warning(f"{path} stays, though operations.keep_runs would delete it: {error}")
        return False
    return _delete(doomed)


def _delete(doomed: Path) -> bool:
    try:
        for entry in list(doomed.iterdir()):
            if entry.name == _MARKER:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        shutil.rmtree(doomed)
    except OSError as error:
        logger.warning(f"{doomed} cannot be deleted, and stays: {error}")
        return False
    return True
