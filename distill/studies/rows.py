"""Statistics over a study's rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.studies.study import Row


def mean(rows: Sequence[Row], metric: str, **where: Any) -> float:
    """Average a metric over the rows whose values are `where`, of those that have it; NaN if none has.

    Weather changes all of an image, so its rows have no outside.
    """
    known = [
        row[metric]
        for row in rows
        if row.get(metric) is not None and all(row[key] == value for key, value in where.items())
    ]
    return float(np.mean(known)) if known else float("nan")


def paired_difference(
    rows: Sequence[Row], one: str, other: str, split: str, metric: str
) -> tuple[float, float, float]:
    """Compare two methods over the same edits of the same scenes.

    Args:
        rows: with `method`, `split`, `edit` and `scene`.
        one: a method.
        other: the method that is subtracted.
        split: of the drawn world.
        metric: the name of what is compared.

    Returns:
        The mean difference, and both ends of its 95 % bootstrap interval.
    """
    values = {
        name: {
            (row["edit"], row["scene"]): row[metric]
            for row in rows
            if (row["method"], row["split"]) == (name, split)
            and row.get(metric) is not None  # weather has no outside
        }
        for name in (one, other)
    }
    differences = np.array([values[one][key] - values[other][key] for key in values[one]])
    draws = np.random.default_rng(0).integers(0, len(differences), (2000, len(differences)))
    low, high = np.quantile(differences[draws].mean(axis=1), (0.025, 0.975))
    return float(differences.mean()), float(low), float(high)
