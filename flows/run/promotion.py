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

from flows.config.operations import OperationSettings
from flows.config.schema import Recipe
from flows.run.folder import RunFolder, slug
from synth.errors import RunError
from synth.files import write_bytes, write_text

_MODEL = re.compile(r"(?!\.)[^/\\\x00-\x1f]{1,255}/model\.onnx")
_MEASURED_ON = ("split", "num_scenes", "given")
"""What must be the same where two models are compared."""


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
    figures = json.loads(run.evaluation.read_text()) if run.evaluation.exists() else None
    entry: dict[str, Any] = {
        "model": os.path.relpath(run.model, pointer.parent),
        "made_from": run.fingerprint_of("export"),
        "measured": None if figures is None else {key: figures[key] for key in (*_MEASURED_ON, "means")},
    }
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


def _compare(before: dict[str, Any], now: dict[str, Any], tolerated: OperationSettings) -> Verdict:
    old, new = before["measured"], now["measured"]
    name = before["model"]
    if old is None and new is None:
        return Verdict(True, f"It takes the place of {name}; neither could be measured, so look at the samples.")
    if old is None:
        return Verdict(True, f"It takes the place of {name}, which was never measured.")
    if new is None or any(old.get(key) != new[key] for key in _MEASURED_ON):
        how = "was not measured" if new is None else f"was measured on {new['num_scenes']} scenes ({new['split']})"
        return Verdict(
            False,
            f"Not promoted: it {how}, and {name} on {old['num_scenes']} scenes ({old['split']}), so they cannot be "
            "compared. To begin anew, delete the pointer and run again.",
        )
    worse, lines = False, []
    for label, scenes, figure, tolerance, form in (
        ("edits right", "edited", "right", tolerated.tolerated_right, "{:.1%}"),
        ("PSNR of edits", "edited", "psnr_all", tolerated.tolerated_psnr, "{:.2f} dB"),
        ("PSNR of no-ops", "no-op", "psnr_all", tolerated.tolerated_psnr, "{:.2f} dB"),
    ):
        was, is_now = _figure(old, scenes, figure), _figure(new, scenes, figure)
        if was is None or is_now is None:
            continue
        too_low = is_now < was - tolerance
        worse = worse or too_low
        lines.append(f"{label} {form.format(was)} -> {form.format(is_now)}{' (worse)' if too_low else ''}")
    told = "; ".join(lines)
    if worse:
        return Verdict(False, f"Not promoted: worse than {name}, which stays the latest good model: {told}.")
    return Verdict(True, f"It takes the place of {name}: {told}.")


def _figure(measured: dict[str, Any], scenes: str, figure: str) -> float | None:
    rows = [row for row in measured["means"] if row["method"] == "student" and row["scenes"] == scenes]
    value: float | None = rows[0][figure] if rows else None
    return value


def _note(run: RunFolder, verdict: Verdict) -> Verdict:
    content = (json.dumps(asdict(verdict), indent=2) + "\n").encode()
    if not run.promotion.exists() or run.promotion.read_bytes() != content:
        write_bytes(run.promotion, content)
    return verdict


def check_pointer(content: bytes, source: object) -> dict[str, Any]:
    """A pointer's entry, which names a model in a run folder beside it.

    Raises:
        RunError: if it is damaged, or names a model elsewhere.
    """
    try:
        entry = json.loads(content)
        model, measured = entry["model"], entry["measured"]
        if not isinstance(model, str) or not _MODEL.fullmatch(model):
            raise ValueError("its model is not RUN/model.onnx")
        if measured is not None and not isinstance(measured, dict):
            raise ValueError("what was measured is not a table")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{source} cannot be read ({error!r}): delete it, and the next run writes it anew") from None
    checked: dict[str, Any] = entry
    return checked


def _read(pointer: Path) -> dict[str, Any]:
    try:
        content = pointer.read_bytes()
    except OSError:
        raise RunError(f"there is no {pointer}: no run of the recipe has ended there yet") from None
    return check_pointer(content, pointer)
