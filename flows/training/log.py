"""A training as a person follows it: figures, sample grids and a GIF of them, and a warning when it goes wrong."""

import importlib.util
import json
import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from synth.errors import TrainingError
from synth.files import write_bytes, write_text
from synth.images import open_image, png_bytes, tile_images

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from distill.train import StepRecord
    from synth.dataset.image_dataset import ImageDataset
    from synth.teacher.teacher import Teacher

logger = logging.getLogger(__name__)

_NUM_SAMPLES = 4  # images in a sample grid
_FRAME_MS, _LAST_FRAME_MS, _MAX_FRAMES = 400, 2000, 60  # of the film


class TrainingLog:
    """What is written of a training besides its checkpoints. The main process has one.

    Raises:
        TrainingError: for a tracker that is not installed.
    """

    def __init__(self, recipe: Recipe, run: RunFolder, teacher: "Teacher", painted: "ImageDataset") -> None:
        self._run, self._settings, self._teacher, self._painted = run, recipe.training, teacher, painted
        self._edits = list(recipe.edits)
        self._said: set[tuple[str, str]] = set()
        self._tracker = open_tracker(recipe, run)
        self._first = True
        run.samples.mkdir(exist_ok=True)

    def see(self, record: "StepRecord") -> None:
        """A step: its figures into the log; every so often a grid, and a warning for what is seen on it."""
        import numpy as np

        from distill.composition import translated

        _log(self._run.metrics, record.row(), self._first)
        self._first = False
        if self._tracker is not None:
            self._tracker.log(record.row(), step=record.step)
        if record.step % self._settings.sample_every == 0 or record.step == self._settings.steps:
            numbers = range(len(self._edits))
            edited = np.stack([translated(self._teacher, record.student, self._images, edit) for edit in numbers])
            sample = grid(self._images, edited)
            write_bytes(self._run.samples / f"step_{record.step:06d}.png", png_bytes(sample))
            self._warn(edited, late=2 * record.step > self._settings.steps)

    def close(self) -> None:
        """The training is over: its grids as a film."""
        write_animation(sorted(self._run.samples.glob("step_*.png")), self._run.film)
        if self._tracker is not None:
            self._tracker.finish()

    @cached_property
    def _images(self) -> "NDArray[np.uint8]":
        """A few of the set, (N, H, W, 3)."""
        import numpy as np

        return np.stack([self._painted.image(index) for index in range(min(_NUM_SAMPLES, len(self._painted)))])

    def _warn(self, edited: "NDArray[np.uint8]", late: bool) -> None:
        """Each sign of each edit once. Before half of the training, what does not move yet is none to worry about;
        and whether the background may change, a recipe does not say."""
        from distill.diagnostics import NOTHING_MOVES, diagnose, measure_change

        for name, pictures in zip(self._edits, edited, strict=True):
            for sign in diagnose(measure_change(self._images, pictures), whole_image=True):
                if (name, sign.name) in self._said or (sign.name == NOTHING_MOVES and not late):
                    continue
                self._said.add((name, sign.name))
                logger.info(f"warning: {name}: {sign.name} ({sign.measured}): {sign.advice}")


def grid(images: "NDArray[np.uint8]", edited: "NDArray[np.uint8]") -> "Image.Image":
    """Images, uint8 (N, H, W, 3), and their edits, (K, N, H, W, 3): a row each, itself, then every edit of it."""
    return tile_images(zip(images, *edited, strict=True))


def write_animation(grids: list[Path], film: Path) -> None:
    """Grids, in their order, as a GIF that stands still on the last one. Of very many, some are left out."""

    from synth.images import gif_bytes

    if not grids:
        return
    every = -(-len(grids) // _MAX_FRAMES)
    frames = [open_image(path) for path in grids[::-1][::every][::-1]]
    times = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
    write_bytes(film, gif_bytes(frames, times))


def open_tracker(recipe: Recipe, run: RunFolder) -> Any:
    """accelerate's tracker of the recipe's choice, started; None for none.

    Raises:
        TrainingError: if its package is not installed.
    """
    name = recipe.training.tracker
    if name == "none":
        return None
    if importlib.util.find_spec(name) is None:
        raise TrainingError(f"training.tracker is {name}, and that is not installed: pip install {name}")
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    tracker = TensorBoardTracker(name, run.path) if name == "tensorboard" else WandBTracker(recipe.name)
    tracker.start()
    return tracker


def _log(path: Path, row: dict[str, float], first: bool) -> None:
    """One line a step. A run that was killed may have logged steps behind its last checkpoint; they are done again,
    so the first line of a new process drops them."""
    if first and path.exists():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        write_text(path, "".join(line for line in lines if json.loads(line)["step"] < row["step"]))
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
