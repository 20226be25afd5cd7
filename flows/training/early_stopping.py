"""When a training has had enough: its edits are looked at on the way, and the best network is kept in `best/`.

A killed training does the steps behind its last checkpoint again, and they give the same networks: what was seen of
them stays.

After `training.patience` looks without a better one the training stops. What is better:

- Where drawn scenes can judge the edits, what comes nearer to the true counterfactuals of development scenes: the
  mean PSNR, which falls for what was not edited as for what was spoilt.
- Elsewhere, what still changes the set's own images by more than SETTLED, and shows no sign of damage: colours that
  saturate, one output for all (`distill.diagnostics`). A network that has settled is done, and a damaged one is no gain.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flows.config.schema import Recipe
from flows.run.folder import RunFolder, save_student
from synth.files import write_text

if TYPE_CHECKING:
    from distill.metrics import Images
    from distill.students import Student
    from synth.dataset.image_dataset import ImageDataset
    from synth.teacher.teacher import Teacher

logger = logging.getLogger(__name__)

SETTLED = 2.0
"""Of 255: images that change by less, on the mean, between two looks do not change any more. A round number, eight
times below what one sees."""

_NUM_IMAGES = 8  # of each edit

Row = dict[str, Any]


class _Judge(Protocol):
    def look(self, student: "Student", best: Row | None, folder: Path | None) -> Row:
        """What is seen of a network: figures, `better` than the best so far or not, and both in words (`said`).

        `folder` has the best network.
        """


class EarlyStopping:
    """The looks at a training so far, of which there is one every `training.sample_every` steps."""

    def __init__(self, recipe: Recipe, run: RunFolder, teacher: "Teacher", painted: "ImageDataset") -> None:
        from flows.evaluation.scenes import has_true_answers

        self._run, self._patience = run, recipe.training.patience
        self._judge: _Judge = (
            _ByTruth(recipe, teacher) if has_true_answers(recipe) else _BySigns(recipe, teacher, painted)
        )
        self._device = teacher.device
        self._every = recipe.training.sample_every
        self._rows: list[Row] = []

    def resume(self, checkpoint: Path) -> bool:
        """Before a training goes on from a checkpoint: look at its network, if it was killed before it was looked at.

        Returns:
            Whether the training was to stop there.
        """
        if self._run.development.exists():
            self._rows = json.loads(self._run.development.read_text())
        step = int(checkpoint.name.removeprefix("step_"))
        if step % self._every:
            return False
        from distill.checkpoints import restore_student

        return self.see(step, restore_student(checkpoint).to(self._device))

    def see(self, step: int, student: "Student") -> bool:
        """Look at a step's network; whether the training shall stop."""
        if not any(row["step"] == step for row in self._rows):
            self._rows.append({"step": step, **self._judge.look(student, self._best(), self.best)})
            if self._rows[-1]["better"]:
                save_student(student.merged(), self._folder(step))
            write_text(self._run.development, json.dumps(self._rows, indent=2) + "\n")
            for folder in self._run.best.glob("step_*"):
                if folder != self.best:
                    shutil.rmtree(folder)
        seen = [row for row in self._rows if row["step"] <= step]
        waited = next((place for place, row in enumerate(reversed(seen)) if row["better"]), len(seen))
        if waited >= self._patience:
            logger.info(f"stopped after {step} steps: {self.verdict()}")
        return waited >= self._patience

    @property
    def best(self) -> Path | None:
        """The folder of the best network so far."""
        row = self._best()
        return None if row is None else self._folder(row["step"])

    def verdict(self) -> str:
        """Which network is the best."""
        best = self._best()
        return "none was good" if best is None else f"the best is that of step {best['step']}, {best['said']}"

    def _best(self) -> Row | None:
        return next((row for row in reversed(self._rows) if row["better"]), None)

    def _folder(self, step: int) -> Path:
        return self._run.best / f"step_{step:06d}"


class _ByTruth:
    """By the true counterfactuals of drawn development scenes."""

    def __init__(self, recipe: Recipe, teacher: "Teacher") -> None:
        from distill.examples import drawn_examples

        self._teacher, given = teacher, recipe.evaluation.given
        self._examples = [drawn_examples(edit, _NUM_IMAGES, "development", **given) for edit in recipe.edits.values()]

    def look(self, student: "Student", best: Row | None, folder: Path | None) -> Row:
        from distill.composition import translated
        from distill.metrics import psnr

        values = []
        for number, examples in enumerate(self._examples):
            inputs = np.stack([example.image for example in examples])
            pictures = translated(self._teacher, student, inputs, number)
            for picture, example in zip(pictures, examples, strict=True):
                assert example.truth is not None, "it was drawn"
                values.append(psnr(picture, example.truth))
        value = float(np.mean(values))
        better = best is None or value > best["psnr"]
        return {"psnr": value, "better": better, "said": f"{value:.2f} dB to the truth on development scenes"}


class _BySigns:
    """By the set's own images, whose true answers nobody knows."""

    def __init__(self, recipe: Recipe, teacher: "Teacher", painted: "ImageDataset") -> None:
        self._teacher, self._edits = teacher, list(recipe.edits)
        self._images = np.stack([painted.image(index) for index in range(min(_NUM_IMAGES, len(painted)))])

    def look(self, student: "Student", best: Row | None, folder: Path | None) -> Row:
        from distill.diagnostics import NOTHING_MOVES, diagnose, measure_change
        from distill.students import load_student

        pictures = self._edited(student)
        names = {sign.name for edited in pictures for sign in diagnose(measure_change(self._images, edited), True)}
        waits = NOTHING_MOVES in names  # for what has not begun there is patience without end
        damaged = sorted(names - {NOTHING_MOVES})
        moved = (
            None
            if folder is None
            else float(np.abs(pictures.astype(np.float32) - self._edited(load_student(folder))).mean())
        )
        better = not damaged and (waits or moved is None or moved > SETTLED)
        said = ", ".join(damaged) or ("nothing moves yet" if waits else "before its images settled")
        return {"moved": moved, "better": better, "said": said}

    def _edited(self, student: "Student") -> "Images":
        """uint8 (edits, N, H, W, 3)."""
        from distill.composition import translated

        student = student.to(self._teacher.device)
        return np.stack([translated(self._teacher, student, self._images, n) for n in range(len(self._edits))])
