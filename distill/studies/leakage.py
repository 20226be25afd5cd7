"""What does an edit change that nobody asked for? DDS may help to reveal biases (supplement, section A)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from distill.evaluation.examples import drawn_examples
from distill.settings import EditSettings
from distill.studies.plots import chart
from distill.studies.study import Row, Study, Unit, trajectory
from synth.teacher.teacher import Teacher
from synth.world.readers import FactorReader
from synth.world.scenes import FACTORS

EDITS = (
    {"color": "red", "material": "leather"},
    {"color": "yellow", "material": "velvet"},
    {"flower": "tulips"},
    {"flower": "dahlias"},
    {"weather": "sunset"},
    {"character": "zombie"},
    {"character": "sculpture"},
)


@dataclass(frozen=True)
class Leakage(Study):
    """What the factor readers see before and after an edit, for factors that it does not name."""

    settings: EditSettings
    num_scenes: int = 12
    name = "leakage"
    question = "Which factors that nobody asked about does an edit change?"

    def units(self) -> list[Unit]:
        return [{"edit": place} for place in range(len(EDITS))]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        examples = drawn_examples(EDITS[unit["edit"]], self.num_scenes, "development")
        edited = trajectory(teacher, examples, self.settings, [self.settings.iterations])[self.settings.iterations]
        reader = FactorReader.load()
        before = reader.read(np.stack([example.image for example in examples]))
        after = reader.read(np.stack(edited))
        rows: list[Row] = []
        for place, example in enumerate(examples):
            assert example.scene is not None
            for factor, value in example.scene.factors.items():
                if before[factor][place] == value:  # else the reader cannot tell what became of it
                    rows.append(
                        {
                            "edit": example.edit,
                            "kind": example.scene.kind,
                            "scene": place,
                            "factor": factor,
                            "asked": factor in example.factors,
                            "before": value,
                            "after": after[factor][place],
                        }
                    )
        return rows

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        edits = list(dict.fromkeys(row["edit"] for row in rows))
        factors = [factor for known in FACTORS.values() for factor in known]
        table = np.array([[_changed(rows, edit, factor) for factor in factors] for edit in edits])

        def draw(axes: Any) -> None:
            axes.imshow(table, cmap="Reds", vmin=0, vmax=1, aspect="auto")
            axes.set_xticks(range(len(factors)), factors, rotation=60, ha="right", fontsize=8)
            axes.set_yticks(range(len(edits)), edits, fontsize=8)
            for line, edit in enumerate(edits):
                for column, factor in enumerate(factors):
                    if not np.isnan(table[line, column]):
                        asked = any(r["asked"] for r in rows if (r["edit"], r["factor"]) == (edit, factor))
                        text = "asked" if asked else f"{table[line, column]:.0%}"
                        ink = "white" if table[line, column] > 0.6 else "black"
                        axes.text(column, line, text, ha="center", va="center", fontsize=7, color=ink)
            axes.set_title("share of scenes in which the reader no longer finds the factor's value", fontsize=9)

        return chart(draw, 11, 4.2)

    def finding(self, rows: Sequence[Row]) -> str:
        unasked = [row for row in rows if not row["asked"]]
        pairs = {(row["edit"], row["factor"]) for row in unasked}
        worst = sorted(pairs, key=lambda pair: (-_changed(unasked, *pair), pair))[:3]
        most = ", ".join(f"{factor} by {edit!r} ({_changed(unasked, edit, factor):.0%})" for edit, factor in worst)
        share = np.mean([row["before"] != row["after"] for row in unasked])
        return f"{share:.0%} of what was not asked about is read differently after the edit; most often {most}."


def _changed(rows: Sequence[Row], edit: str, factor: str) -> float:
    """The share of an edit's scenes in which the reader sees another value than before; NaN without scenes."""
    chosen = [row for row in rows if (row["edit"], row["factor"]) == (edit, factor)]
    return float(np.mean([row["before"] != row["after"] for row in chosen])) if chosen else float("nan")
