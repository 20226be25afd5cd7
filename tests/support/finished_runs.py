"""Finished runs without their hours: what they leave, as far as promotion and retention look at it."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from distill.evaluation.counterfactuals import EditMetrics
from flows.config.schema import Recipe
from flows.run.folder import RunFolder


def ended(recipe: Recipe, out: Path, right: float | None = 0.9, psnr: float = 25.0, scenes: int = 100) -> Path:
    """Put into a folder what a finished run leaves; a share of None is a model that was not measured."""
    run = RunFolder.open_or_create(recipe, out)
    run.model.write_bytes(b"a model")
    run.mark_done("export", f"made for {out.name}")
    if right is not None:
        others = {item.name: None for item in fields(EditMetrics)} | {"edit": "mean over edits", "num_scenes": scenes}
        rows = [
            others | {"method": method, "scenes": kind, "right": share, "psnr_all": value}
            for method, kind, share, value in (
                ("do nothing", "edited", 0.0, 40.0),
                ("student", "edited", right, psnr),
                ("student", "no-op", 1.0, psnr + 5),
            )
        ]
        evaluation: dict[str, Any] = {"split": "test", "num_scenes": scenes, "given": {}, "edits": [], "means": rows}
        run.evaluation.write_text(json.dumps(evaluation))
    run.report.write_text("a report")
    return out
