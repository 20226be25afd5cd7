"""Delete old runs, as `operations.keep_runs` asks.

A run is first renamed to `.old-NAME-RANDOM`. A marker file in it repeats this name and is deleted last. So the
leftovers of a killed process can be told from a person's own `.old-photos`.
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
from flows.run.lock import exclusive_folder
from flows.run.promotion import latest_model, pointer_of
from synth.dataset.store import Store
from synth.errors import DatasetError, DistilleryError
from synth.files import write_text

logger = logging.getLogger(__name__)

_DOOMED = re.compile(r"\.old-.+-[0-9a-f]{16}", re.DOTALL)
_MARKER = ".being-deleted"


def clear_old_runs(recipe: Recipe, out: Path) -> list[Path]:
    """Delete the oldest finished runs of the recipe beside `out`, until `operations.keep_runs` are left.

    Never deleted: `out` itself, the run that `latest` names, a run without a report (it may be active, or resumed),
    another recipe's run, anything that is not certainly a run, and a run whose folder holds the dataset of any other
    run beside it. A dataset outside the run folder stays.

    Args:
        recipe: the recipe, with `operations.keep_runs`.
        out: the run folder that has just finished.

    Returns:
        The deleted folders.

    Raises:
        RunError: if the recipe's pointer is damaged.
    """
    keep = recipe.operations.keep_runs
    if keep is None:
        return []
    beside = sorted(Path(os.path.abspath(out)).parent.iterdir())  # `.` has no parent
    # Finish the deletions that a killed process left.
    for leftover in filter(_is_leftover, beside):
        _delete(leftover)
    finished = {path: when for path in beside if (when := _finished_at(path, recipe.name)) is not None}
    pointer = pointer_of(recipe, out)
    spared = {out.resolve()} | ({latest_model(pointer).parent.resolve()} if pointer.exists() else set())
    newest_first = sorted(finished, key=finished.__getitem__, reverse=True)
    doomed = [path for path in newest_first[keep:] if path.resolve() not in spared]
    # What a deleted run used is free for the next one to go.
    return [path for path in doomed if not _is_used(path) and _retire(path)]


def _is_used(path: Path) -> bool:
    """Whether a folder holds, at any depth, another run's dataset, or what a link beside it leads to."""
    place = path.resolve()
    for entry in path.parent.iterdir():
        if entry == path:
            continue
        try:
            needed = [entry.resolve(), _dataset_of(entry)]
        except (DistilleryError, OSError, RuntimeError) as error:  # RuntimeError: symlinks in a circle
            logger.warning(f"{path} is old, and kept: nobody can tell whether {entry} uses its dataset ({error})")
            return True
        for used in needed:
            if used is not None and used.is_relative_to(place):
                logger.info(f"{path} is old, and kept: {entry} uses {used}")
                return True
    return False


def _dataset_of(path: Path) -> Path | None:
    """Where the dataset of the run in a folder is, behind all symlinks; None if it is on remote storage.

    Raises:
        RunError: if the run's `dataset.url` is damaged.
    """
    # Resolved, since the name is relative to the folder; of a chained URL, what lies at its end.
    name = RunFolder(path.resolve()).dataset.rpartition("::")[2]
    try:
        dataset = Store(name).path
    except DatasetError:  # a remote storage whose package is not installed
        return None
    return None if dataset is None else dataset.resolve()


def _finished_at(path: Path, name: str) -> int | None:
    """When the recipe's run in a folder finished, in ns; None if it is not such a run, or cannot be read."""
    run = RunFolder(path)
    needed = (run.recipe, run.report, run.stages)
    try:
        if path.is_symlink() or any(file.is_symlink() or not file.is_file() for file in needed):
            return None
        # Without a finished stage the report is not this project's.
        if load_recipe(run.recipe).name != name or not run.fingerprint_of("export"):
            return None
        return run.report.stat().st_mtime_ns
    except (DistilleryError, OSError, ValueError):  # damaged, or of another version: its owner is unknown
        return None


def _is_leftover(path: Path) -> bool:
    """Whether a folder is what a killed deletion left: its marker repeats its name."""
    marker = path / _MARKER
    try:
        if _DOOMED.fullmatch(path.name) is None or path.is_symlink() or marker.is_symlink() or not marker.is_file():
            return False
        return marker.read_bytes() == os.fsencode(path.name)
    except OSError:
        return False


def _retire(path: Path) -> bool:
    """Rename, then delete, so that no half-deleted run passes for a run; return whether it worked."""
    doomed = path.with_name(f".old-{path.name[:200]}-{secrets.token_hex(8)}")
    try:
        with exclusive_folder(path):  # not while another command is at work on it
            write_text(path / _MARKER, doomed.name)
            path.rename(doomed)
    except (OSError, DistilleryError) as error:
        logger.warning(f"{path} cannot be deleted, though operations.keep_runs asks for it: {error}")
        return False
    return _delete(doomed)


def _delete(doomed: Path) -> bool:
    """Delete a renamed run, its marker last; return whether it worked."""
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
        logger.warning(f"{doomed} cannot be deleted: {error}")
        return False
    return True
