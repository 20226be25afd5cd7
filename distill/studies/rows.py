"""Figures over a study's rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.studies.study import Row


def mean(rows: Sequence[Row], figure: str, **which: Any) -> float:
    """The mean of a figure over the rows whose values are `which`, of those that have it; NaN if none has.

    Weather changes all of an image, so its rows have no outside.
    """
    known = [
        row[figure]
        for row in rows
        if row.get(figure) is not None and all(row[key] == value for key, value in which.items())
    ]
    return float(np.mean(known)) if known else float("nan")


def paired_difference(
    rows: Sequence[Row], one: str, other: str, split: str, figure: str
) -> tuple[float, float, float]:
    """The mean difference of two methods over the same edits of the same scenes, and its 95 % bootstrap interval."""
    values = {
        name: {
            (row["edit"], row["scene"]): row[figure]
            for row in rows
            if (row["method"], row["split"]) == (name, split)
            and row.get(figure) is not None  # weather has no outside
        }
        for name in (one, other)
    }
    differences = np.array([values[one][key] - values[other][key] for key in values[one]])
    draws = np.random.default_rng(0).integers(0, len(differences), (2000, len(differences)))
    low, high = np.quantile(differences[draws].mean(axis=1), (0.025, 0.975))
    return float(differences.mean()), float(low), float(high)
