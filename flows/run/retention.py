"""Old runs go when the recipe says so: `operations.keep_runs`."""

import shutil
from pathlib import Path

from flows.config.loading import load_recipe
from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from flows.run.promotion import latest_model, pointer_of
from synth.errors import RecipeError

_DOOMED = ".old-"


def clear_old_runs(recipe: Recipe, out: Path) -> list[Path]:
    """Delete the oldest finished runs of the recipe beside `out`, until `operations.keep_runs` are left.

    Never deleted: `out` itself, the run that `latest` names, a run without a report (it may be at work, or go on),
    another recipe's, and anything that is no run folder. A painted set that lies elsewhere stays.

    Returns:
        What was deleted.
    """
    keep = recipe.operations.keep_runs
    if keep is None:
        return []
    for leftover in out.parent.glob(f"{_DOOMED}*"):  # of a process that was killed here
        shutil.rmtree(leftover)
    finished = sorted(
        (path for path in out.parent.iterdir() if _is_finished_run(path, recipe.name)),
        key=lambda path: RunFolder(path).report.stat().st_mtime_ns,
        reverse=True,
    )
    pointer = pointer_of(recipe, out)
    spared = {out.resolve()} | ({latest_model(pointer).parent.resolve()} if pointer.exists() else set())
    old = [path for path in finished[keep:] if path.resolve() not in spared]
    for path in old:
        doomed = path.with_name(f"{_DOOMED}{path.name}")
        path.rename(doomed)  # first, so that no half of a run is ever taken for one
        shutil.rmtree(doomed)
    return old


def _is_finished_run(path: Path, name: str) -> bool:
    run = RunFolder(path)
    if path.is_symlink() or not (run.recipe.is_file() and run.report.is_file() and run.stages.is_file()):
        return False
    try:
        return load_recipe(run.recipe).name == name
    except RecipeError:  # of another version of the project; nobody here can say whose it is
        return False
