"""When a training has had enough: its edits of development scenes, measured against their true answers on the way.

The network of the best measurement is kept in `best/`; after `training.patience` measurements without a better one
the training stops. The measure is the PSNR to the true counterfactual, the mean over pixels, scenes and edits: it
falls for what was not edited as for what was spoilt.
"""

import json
from typing import TYPE_CHECKING

import numpy as np

from flows.progress import say
from flows.recipe import Recipe
from flows.run_folder import RunFolder, save_student, write_whole
from synth.errors import TrainingError

if TYPE_CHECKING:
    from distill.train import StepRecord
    from synth.teacher import Teacher

_NUM_SCENES = 8  # an edit


class Stopping:
    """The measurements of a training so far, of which there is one every `training.sample_every` steps.

    Raises:
        TrainingError: if drawn scenes cannot judge the recipe's edits.
    """

    def __init__(self, recipe: Recipe, run: RunFolder, teacher: "Teacher") -> None:
        from distill.examples import drawn_examples
        from flows.evaluate import has_true_answers

        if not has_true_answers(recipe):
            raise TrainingError(
                "training.patience needs true answers, and drawn scenes cannot judge these edits or this teacher: "
                "set it to 0, and choose the checkpoint by the sample grids"
            )
        self._run, self._teacher, self._patience = run, teacher, recipe.training.patience
        self._examples = [drawn_examples(edit, _NUM_SCENES, "development") for edit in recipe.edits.values()]
        there = json.loads(run.development.read_text()) if run.development.exists() else []
        self._rows: list[dict[str, float]] = there

    def see(self, record: "StepRecord") -> bool:
        """Measure a step's network; whether the training shall stop."""
        from distill.evaluate import psnr
        from distill.translator import translated

        values = []
        for number, examples in enumerate(self._examples):
            inputs = np.stack([example.image for example in examples])
            for picture, example in zip(
                translated(self._teacher, record.student, inputs, number), examples, strict=True
            ):
                assert example.truth is not None, "it was drawn"
                values.append(psnr(picture, example.truth))
        # A training that was killed does the steps behind its last checkpoint again.
        self._rows = [row for row in self._rows if row["step"] < record.step]
        best = max((row["psnr"] for row in self._rows), default=-np.inf)
        self._rows.append({"step": record.step, "psnr": float(np.mean(values))})
        if self._rows[-1]["psnr"] > best:
            save_student(record.student.merged(), self._run.best)
        write_whole(self._run.development, (json.dumps(self._rows, indent=2) + "\n").encode())
        stop = len(self._rows) - 1 - self._place_of_best() >= self._patience
        if stop:
            say(f"stopped after {record.step} steps: {self.verdict()}")
        return stop

    def verdict(self) -> str:
        """Which network was the best."""
        best = self._rows[self._place_of_best()]
        return f"the best on development scenes was that of step {best['step']}, {best['psnr']:.2f} dB to the truth"

    def _place_of_best(self) -> int:
        return max(range(len(self._rows)), key=lambda place: self._rows[place]["psnr"])
