"""Early stopping: the student is evaluated during the training, and the best one is kept in `best/`.

The training stops after `training.patience` evaluations without a better student. A student is better:

- where drawn scenes can judge the edits, if it has a higher mean PSNR to the true counterfactuals of development
  scenes. The PSNR falls for what was not edited and for what was damaged.
- elsewhere, if it still changes the dataset's images by more than SETTLED and shows no damage, such as saturated
  colours or one output for all inputs (`distill.evaluation.diagnostics`).

A killed training repeats the steps after its last checkpoint and gets the same students, so their rows stay valid.
"""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, Protocol

import numpy as np
from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from flows.config.schema import Recipe
from flows.run.folder import RunFolder, save_network
from synth.errors import TrainingError
from synth.files import write_text
from synth.state import read_json, reading

if TYPE_CHECKING:
    from distill.evaluation.metrics import Images
    from distill.students import Student
    from synth.dataset.image_dataset import ImageDataset
    from synth.teacher.teacher import Teacher

logger = logging.getLogger(__name__)

SETTLED = 2.0
"""Mean absolute change, of 255, between two evaluations; images that change by less have settled. A round number,
an eighth of what people notice."""

_NUM_IMAGES = 8  # of each edit

Row = dict[str, Any]


class _StoredRow(TypedDict):
    """A row of development.json."""

    step: Annotated[int, Field(ge=0)]
    better: bool
    said: str
    psnr: NotRequired[FiniteFloat]
    moved: NotRequired[FiniteFloat | None]


class _Judge(Protocol):
    metric: str
    """The key of what it measures."""

    def evaluate(self, student: "Student", best: Row | None, folder: Path | None) -> Row:
        """Evaluate a student.

        Args:
            student: in training.
            best: the row of the best student so far, if any.
            folder: where the best student is.

        Returns:
            The metrics, whether the student is `better` than the best, and a description for people (`said`).
        """


class EarlyStopping:
    """The evaluations of a training so far, one every `training.sample_every` steps.

    Args:
        recipe: the edits, and the training's settings.
        run: the run folder, in which the rows and the best student are kept.
        teacher: whose VAE decodes the student's latents.
        dataset: the images to judge by where no drawn scenes can.
    """

    def __init__(self, recipe: Recipe, run: RunFolder, teacher: "Teacher", dataset: "ImageDataset") -> None:
        from flows.evaluation.scenes import has_true_answers

        self._run = run
        self._patience = recipe.training.patience
        self._judge: _Judge = (
            _ByTruth(recipe, teacher) if has_true_answers(recipe) else _ByDiagnostics(recipe, teacher, dataset)
        )
        self._device = teacher.device
        self._every = recipe.training.sample_every
        self._rows: list[Row] = []

    def resume(self, checkpoint: Path) -> bool:
        """Read the earlier evaluations, and evaluate a checkpoint's student if a kill prevented that.

        Args:
            checkpoint: from which the training resumes.

        Returns:
            Whether the training should have stopped there.

        Raises:
            TrainingError: if the record of the earlier evaluations is damaged.
        """
        if self._run.development.exists():
            remedy = "delete it, and the training evaluates its students from here on"
            self._rows = read_json(self._run.development, list[_StoredRow], TrainingError, remedy)
            with reading(self._run.development, TrainingError, remedy):
                for row in self._rows:
                    row[self._judge.metric]  # another judge's rows, or damaged ones, lack it
        step = int(checkpoint.name.removeprefix("step_"))
        if step % self._every:
            return False
        from distill.training.checkpoints import restore_student

        return self.should_stop(step, restore_student(checkpoint).to(self._device))

    def should_stop(self, step: int, student: "Student") -> bool:
        """Evaluate the student of a step, keep it if it is the best, and return whether the training should stop."""
        if not any(row["step"] == step for row in self._rows):
            row = {"step": step, **self._judge.evaluate(student, self._best_row(), self.best)}
            self._rows.append(row)
            # The student goes first: a row that calls it the best must find it in its folder.
            if row["better"]:
                save_network(student.merged(), self._folder(step))
            write_text(self._run.development, json.dumps(self._rows, indent=2) + "\n")
            for folder in self._run.best.glob("step_*"):
                if folder != self.best and re.fullmatch(r"step_[0-9]+", folder.name):  # a copy is a person's
                    shutil.rmtree(folder)
        # A resumed training repeats steps whose rows exist; rows of later steps must not stop it early.
        past = [row for row in self._rows if row["step"] <= step]
        waited = next((age for age, row in enumerate(reversed(past)) if row["better"]), len(past))
        if waited >= self._patience:
            logger.info(f"stopped after {step} steps: {self.verdict()}")
        return waited >= self._patience

    @property
    def best(self) -> Path | None:
        """The folder of the best student so far."""
        row = self._best_row()
        return None if row is None else self._folder(row["step"])

    def verdict(self) -> str:
        """Describe the best student, for people."""
        best = self._best_row()
        return (
            "no student was good"
            if best is None
            else f"the best student is that of step {best['step']}, {best['said']}"
        )

    def _best_row(self) -> Row | None:
        return next((row for row in reversed(self._rows) if row["better"]), None)

    def _folder(self, step: int) -> Path:
        return self._run.best / f"step_{step:06d}"


class _ByTruth:
    """Judges a student by the true counterfactuals of drawn development scenes."""

    metric = "psnr"

    def __init__(self, recipe: Recipe, teacher: "Teacher") -> None:
        from distill.evaluation.examples import drawn_examples

        self._teacher = teacher
        given = recipe.evaluation.given
        self._examples = [drawn_examples(edit, _NUM_IMAGES, "development", **given) for edit in recipe.edits.values()]

    def evaluate(self, student: "Student", best: Row | None, folder: Path | None) -> Row:
        from distill.composition import translated
        from distill.evaluation.metrics import psnr

        values = []
        for number, examples in enumerate(self._examples):
            inputs = np.stack([example.image for example in examples])
            edited = translated(self._teacher, student, inputs, number)
            for image, example in zip(edited, examples, strict=True):
                assert example.truth is not None, "a drawn scene has a true counterfactual"
                values.append(psnr(image, example.truth))
        value = float(np.mean(values))
        better = best is None or value > best["psnr"]
        return {"psnr": value, "better": better, "said": f"{value:.2f} dB to the truth on development scenes"}


class _ByDiagnostics:
    """Judges a student by how it changes the dataset's images, whose true counterfactuals are unknown."""

    metric = "moved"

    def __init__(self, recipe: Recipe, teacher: "Teacher", dataset: "ImageDataset") -> None:
        self._teacher = teacher
        self._num_edits = len(recipe.edits)
        self._images = np.stack([dataset.image(index) for index in range(min(_NUM_IMAGES, len(dataset)))])

    def evaluate(self, student: "Student", best: Row | None, folder: Path | None) -> Row:
        from distill.evaluation.diagnostics import NOTHING_MOVES, diagnose, measure_change
        from distill.students import load_student

        edited = self._edited(student)
        diagnostics = [found for images in edited for found in diagnose(measure_change(self._images, images), True)]
        names = {diagnostic.name for diagnostic in diagnostics}
        damage = sorted(names - {NOTHING_MOVES})
        moved = None
        if folder is not None:
            best_edited = self._edited(load_student(folder))
            moved = float(np.abs(edited.astype(np.float32) - best_edited).mean())
        # Patience counts only once the images move: until then every student is the best so far.
        waits = NOTHING_MOVES in names
        better = not damage and (waits or moved is None or moved > SETTLED)
        said = ", ".join(damage) or ("nothing moves yet" if waits else "before its images settled")
        return {"moved": moved, "better": better, "said": said}

    def _edited(self, student: "Student") -> "Images":
        """The images with every edit, uint8 (edits, N, H, W, 3)."""
        from distill.composition import translated

        student = student.to(self._teacher.device)
        return np.stack([translated(self._teacher, student, self._images, edit) for edit in range(self._num_edits)])
