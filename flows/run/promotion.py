"""Which model of a recipe to use: a small file beside the run folders, the pointer, names the latest good one.

    runs/sofas.latest.json                {"model": "sofas-3f9a1c2e/model.onnx", ...}; relative to this file
    runs/sofas-3f9a1c2e/promotion.json    whether `latest` was moved to this run, and why

A finished run becomes `latest` if its model is as good as the present one, within the recipe's tolerances, or if that
one is gone. Otherwise `latest` does not move, and the run's verdict says why. To overrule it, delete the pointer, the
one in `operations.remote_dir` too, and run again.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

from pydantic import ConfigDict, FiniteFloat
from typing_extensions import TypedDict

from flows.config.operations import OperationSettings
from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from inference.pointer import MODEL, SUFFIX
from synth.errors import RunError
from synth.files import write_bytes, write_text
from synth.state import parse_json, read_json, reading
from synth.words import slug

_MEASURED_ON = ("split", "num_scenes", "given")
"""Two evaluations can be compared only if these are equal."""


class _Entry(TypedDict):
    """The content of a pointer."""

    model: str
    """The model file's path, relative to the pointer."""
    made_from: str
    """The fingerprint of the export."""
    measured: "_Measured | None"


class _Measured(TypedDict):
    """The part of an evaluation by which two models are compared."""

    split: str
    num_scenes: int
    given: dict[str, str]
    means: "list[_Mean]"


_Metric = Literal["right", "psnr_all"]
"""What a comparison reads of a row of metrics."""


class _Mean(TypedDict):
    """A row of metrics; the columns that a comparison does not read stay."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    method: str
    scenes: str
    right: FiniteFloat | None
    psnr_all: FiniteFloat | None


@dataclass(frozen=True)
class Verdict:
    """Whether a run's model was promoted."""

    promoted: bool
    """Whether `latest` names the model now."""
    why: str
    """The reason, as a sentence."""


def pointer_of(recipe: Recipe, out: Path) -> Path:
    """The path of the recipe's pointer, beside its run folders."""
    return Path(os.path.abspath(out)).parent / f"{slug(recipe.name)}{SUFFIX}"  # `.` has no parent


def latest_model(pointer: Path) -> Path:
    """The path of the model that a pointer names; it need not be on this machine.

    Raises:
        RunError: if there is no pointer, or it is damaged.
    """
    return pointer.parent / _read(pointer)["model"]


def check_latest(recipe: Recipe, out: Path) -> None:
    """Check the recipe's pointer, if there is one, before the hours after which it is read.

    Raises:
        RunError: if it is damaged.
    """
    if (pointer := pointer_of(recipe, out)).exists():
        latest_model(pointer)


def promote(recipe: Recipe, out: Path, is_elsewhere: Callable[[str], bool] = lambda model: False) -> Verdict:
    """Point the recipe's `latest` at the run in `out` if its model is good enough; write the verdict into the run.

    Args:
        recipe: the run's.
        out: the exported run's folder.
        is_elsewhere: whether another place has a model, RUN/model.onnx, that is not here. A model that no place has
            is not one to keep: it is replaced without a comparison.

    Raises:
        RunError: if the run has no model file, or the pointer is damaged.
    """
    run = RunFolder(out)
    pointer = pointer_of(recipe, out)
    if not run.model.exists():
        raise RunError(f"{out} has no model file yet, so there is nothing to promote")
    entry: _Entry = {
        "model": os.path.relpath(run.model, pointer.parent),
        "made_from": run.fingerprint_of("export"),
        "measured": None,
    }
    if (evaluation := run.read_evaluation()) is not None:
        split, num_scenes, given = evaluation["split"], evaluation["num_scenes"], evaluation["given"]
        means = cast(list[_Mean], evaluation["means"])
        entry["measured"] = {"split": split, "num_scenes": num_scenes, "given": given, "means": means}
    before = _read(pointer) if pointer.exists() else None
    if before == entry:
        return _write_verdict(run, _why_promoted(run))
    if before is None:
        verdict = Verdict(True, "It is the first model of its recipe here, and so the latest good one.")
    elif before["model"] == entry["model"]:
        verdict = Verdict(True, "It is the latest good model, and replaces the one that was in its folder before.")
    elif not (pointer.parent / before["model"]).exists() and not is_elsewhere(before["model"]):
        verdict = Verdict(
            True, f"It replaces {before['model']}, which is gone, so there is nothing to compare it with."
        )
    else:
        verdict = _compare(before, entry, recipe.operations)
    if verdict.promoted:
        write_text(pointer, json.dumps(entry, indent=2) + "\n")
    return _write_verdict(run, verdict)


def _why_promoted(run: RunFolder) -> Verdict:
    """Why the run that `latest` names was promoted, as its verdict says."""
    try:
        verdict = read_verdict(run)
    except RunError:  # missing or damaged: it is written anew
        verdict = None
    if verdict is not None and verdict.promoted:
        return verdict
    return Verdict(True, "It is the latest good model of its recipe, as before.")


def _compare(before: _Entry, now: _Entry, tolerated: OperationSettings) -> Verdict:
    old, new = before["measured"], now["measured"]
    name = before["model"]
    if old is None and new is None:
        return Verdict(True, f"It replaces {name}; neither could be measured, so look at the samples.")
    if old is None:
        return Verdict(True, f"It replaces {name}, which was never measured.")
    if new is None or any(dict(old)[key] != dict(new)[key] for key in _MEASURED_ON):
        how = "was not measured" if new is None else f"was measured on {new['num_scenes']} scenes ({new['split']})"
        return Verdict(
            False,
            f"Not promoted: it {how}, and {name} on {old['num_scenes']} scenes ({old['split']}), so they cannot be "
            "compared. To start over, delete the pointer, in operations.remote_dir too, and run again.",
        )
    worse = False
    lines = []
    comparisons: tuple[tuple[str, str, _Metric, float, str], ...] = (
        ("edits right", "edited", "right", tolerated.tolerated_right, "{:.1%}"),
        ("PSNR of edits", "edited", "psnr_all", tolerated.tolerated_psnr, "{:.2f} dB"),
        ("PSNR of no-ops", "no-op", "psnr_all", tolerated.tolerated_psnr, "{:.2f} dB"),
    )
    for label, scenes, metric, tolerance, form in comparisons:
        was, is_now = _metric(old, scenes, metric), _metric(new, scenes, metric)
        # A split without such scenes has no such mean.
        if was is None or is_now is None:
            continue
        too_low = is_now < was - tolerance
        worse = worse or too_low
        lines.append(f"{label} {form.format(was)} -> {form.format(is_now)}{' (worse)' if too_low else ''}")
    comparison = "; ".join(lines)
    if worse:
        return Verdict(False, f"Not promoted: worse than {name}, which stays the latest good model: {comparison}.")
    return Verdict(True, f"It replaces {name}: {comparison}.")


def _metric(measured: "_Measured", scenes: str, metric: _Metric) -> float | None:
    rows = [row for row in measured["means"] if row["method"] == "student" and row["scenes"] == scenes]
    return rows[0][metric] if rows else None


def _write_verdict(run: RunFolder, verdict: Verdict) -> Verdict:
    """Write the verdict into the run, unless it is there already."""
    content = (json.dumps(asdict(verdict), indent=2) + "\n").encode()
    if not run.promotion.exists() or run.promotion.read_bytes() != content:
        write_bytes(run.promotion, content)
    return verdict


def read_verdict(run: RunFolder) -> Verdict:
    """Read the verdict on the run's model.

    Raises:
        RunError: if its file is missing or damaged.
    """
    verdict: Verdict = read_json(run.promotion, Verdict, RunError, "delete it, and the next run writes a new one")
    return verdict


def check_pointer(content: bytes, place: object) -> "_Entry":
    """Parse a pointer's content, and check that it names a model file in a folder beside it.

    Args:
        content: of the pointer, JSON.
        place: the pointer's path or URL, for the message.

    Raises:
        RunError: for anything else.
    """
    with reading(place, RunError, "delete it, and the next run writes a new one"):
        entry: _Entry = parse_json(content, _Entry)
        if not MODEL.fullmatch(entry["model"]):
            raise ValueError("its model is not RUN/model.onnx")
    return entry


def _read(pointer: Path) -> "_Entry":
    try:
        content = pointer.read_bytes()
    except FileNotFoundError:
        raise RunError(f"there is no {pointer}: no run of the recipe has finished there yet") from None
    return check_pointer(content, pointer)
