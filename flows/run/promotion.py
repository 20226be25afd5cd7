"""Which model of a recipe is the one to use: a small file beside the run folders says so.

    runs/sofas.latest.json      {"model": "sofas-3f9a1c2e/model.onnx", ...}; paths are relative to it
    runs/sofas-3f9a1c2e/        promotion.json: whether `latest` was moved here, and why

A finished run takes `latest` when its model is as good as the one that has it, within the recipe's tolerance. A worse
one stays where it is, marked, and `latest` with it. Whoever disagrees deletes the pointer and runs again.
"""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from flows.config.naming import slug
from flows.config.operations import OperationSettings
from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from synth.errors import RunError
from synth.files import write_bytes, write_text
from synth.state import parse_json, read_json, reading

_MODEL = re.compile(r"(?!\.)[^/\\\x00-\x1f]{1,255}/model\.onnx")
_MEASURED_ON = ("split", "num_scenes", "given")
"""What must be the same where two models are compared."""


class _Entry(TypedDict):
    """What a pointer holds."""

    model: str
    """Of the model file, relative to the pointer."""
    made_from: str
    measured: "_Measured | None"


class _Measured(TypedDict):
    """What two models are compared by."""

    split: str
    num_scenes: int
    given: dict[str, str]
    means: list[dict[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """What became of a run's model."""

    promoted: bool
    """Whether `latest` names it now."""
    why: str
    """A sentence for a person."""


def pointer_of(recipe: Recipe, out: Path) -> Path:
    """The file that names the recipe's latest good model, beside its run folders."""
    return out.parent / f"{slug(recipe.name)}.latest.json"


def latest_model(pointer: Path) -> Path:
    """The model that a pointer names.

    Raises:
        RunError: if there is no pointer, or it names a model that is gone.
    """
    model: Path = pointer.parent / _read(pointer)["model"]
    if not model.exists():
        raise RunError(f"{pointer} names {model}, which is gone: delete {pointer.name} and run the recipe again")
    return model


def promote(recipe: Recipe, out: Path) -> Verdict:
    """Move the recipe's `latest` to the run in `out` if its model is good enough; note the verdict in the run.

    Raises:
        RunError: if the run has no model file, or the pointer is broken.
    """
    run, pointer = RunFolder(out), pointer_of(recipe, out)
    if not run.model.exists():
        raise RunError(f"{out} has no model file yet, and so nothing to promote")
    entry: _Entry = {
        "model": os.path.relpath(run.model, pointer.parent),
        "made_from": run.fingerprint_of("export"),
        "measured": None,
    }
    if (evaluation := run.read_evaluation()) is not None:
        split, num_scenes, given = evaluation["split"], evaluation["num_scenes"], evaluation["given"]
        entry["measured"] = {"split": split, "num_scenes": num_scenes, "given": given, "means": evaluation["means"]}
    before = _read(pointer) if pointer.exists() else None
    if before == entry:
        return _note(run, Verdict(True, "It is the latest good model of its recipe, as before."))
    if before is None:
        verdict = Verdict(True, "It is the first model of its recipe here, and so the latest good one.")
    elif before["model"] == entry["model"]:
        verdict = Verdict(True, "It is the latest good model, in the place of the one that was in its folder before.")
    else:
        verdict = _compare(before, entry, recipe.operations)
    if verdict.promoted:
        write_text(pointer, json.dumps(entry, indent=2) + "\n")
    return _note(run, verdict)


def _compare(before: _Entry, now: _Entry, tolerated: OperationSettings) -> Verdict:
    old, new = before["measured"], now["measured"]
    name = before["model"]
    if old is None and new is None:
        return Verdict(True, f"It takes the place of {name}; neither could be measured, so look at the samples.")
    if old is None:
        return Verdict(True, f"It takes the place of {name}, which was never measured.")
    if new is None or any(dict(old)[key] != dict(new)[key] for key in _MEASURED_ON):
        how = "was not measured" if new is None else f"was measured on {new['num_scenes']} scenes ({new['split']})"
        return Verdict(
            False,
            f"Not promoted: it {how}, and {name} on {old['num_scenes']} scenes ({old['split']}), so they cannot be "
            "compared. To begin anew, delete the pointer and run again.",
        )
    worse, lines = False, []
    for label, scenes, metric, tolerance, form in (
        ("edits right", "edited", "right", tolerated.tolerated_right, "{:.1%}"),
        ("PSNR of edits", "edited", "psnr_all", tolerated.tolerated_psnr, "{:.2f} dB"),
        ("PSNR of no-ops", "no-op", "psnr_all", tolerated.tolerated_psnr, "{:.2f} dB"),
    ):
        was, is_now = _metric(old, scenes, metric), _metric(new, scenes, metric)
        if was is None or is_now is None:
            continue
        too_low = is_now < was - tolerance
        worse = worse or too_low
        lines.append(f"{label} {form.format(was)} -> {form.format(is_now)}{' (worse)' if too_low else ''}")
    told = "; ".join(lines)
    if worse:
        return Verdict(False, f"Not promoted: worse than {name}, which stays the latest good model: {told}.")
    return Verdict(True, f"It takes the place of {name}: {told}.")


def _metric(measured: "_Measured", scenes: str, metric: str) -> float | None:
    rows = [row for row in measured["means"] if row["method"] == "student" and row["scenes"] == scenes]
    value: float | None = rows[0][metric] if rows else None
    return value


def _note(run: RunFolder, verdict: Verdict) -> Verdict:
    content = (json.dumps(asdict(verdict), indent=2) + "\n").encode()
    if not run.promotion.exists() or run.promotion.read_bytes() != content:
        write_bytes(run.promotion, content)
    return verdict


def read_verdict(run: RunFolder) -> Verdict:
    """What became of the run's model.

    Raises:
        RunError: if its file is missing or damaged.
    """
    verdict: Verdict = read_json(run.promotion, Verdict, RunError, "delete it, and the next run writes it anew")
    return verdict


def check_pointer(content: bytes, place: object) -> "_Entry":
    """A pointer's content, if it is one: it names a model file in a folder beside it.

    Raises:
        RunError: for anything else.
    """
    with reading(place, RunError, "delete it, and the next run writes it anew"):
        entry: _Entry = parse_json(content, _Entry)
        if not _MODEL.fullmatch(entry["model"]):
            raise ValueError("its model is not RUN/model.onnx")
    return entry


def _read(pointer: Path) -> "_Entry":
    try:
        content = pointer.read_bytes()
    except FileNotFoundError:
        raise RunError(f"there is no {pointer}: no run of the recipe has ended there yet") from None
    return check_pointer(content, pointer)
