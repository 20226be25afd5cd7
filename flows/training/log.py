"""What people follow a training by: metrics, sample grids, a GIF of the grids, and warnings."""

import importlib.util
import json
import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.settings import NUM_SAMPLES
from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from synth.errors import TrainingError
from synth.files import write_bytes
from synth.images.encoding import open_image, png_bytes, tile_images
from synth.state import parse_json, reading

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from distill.training.train import StepRecord
    from synth.dataset.image_dataset import ImageDataset
    from synth.teacher.teacher import Teacher

logger = logging.getLogger(__name__)

_FRAME_MS = 400
_LAST_FRAME_MS = 2000
_MAX_FRAMES = 60


class TrainingLog:
    """What the main process writes of a training besides its checkpoints.

    Args:
        recipe: the edits, and the training's settings.
        run: the run folder to write into.
        teacher: whose VAE decodes the student's latents.
        dataset: its first images are the samples.

    Raises:
        TrainingError: for a tracker that is not installed.
    """

    def __init__(self, recipe: Recipe, run: RunFolder, teacher: "Teacher", dataset: "ImageDataset") -> None:
        self._run = run
        self._settings = recipe.training
        self._teacher = teacher
        self._dataset = dataset
        self._edits = list(recipe.edits)
        self._warned: set[tuple[str, str]] = set()  # (edit, diagnostic)
        self._tracker = open_tracker(recipe, run)
        self._is_first_step = True
        run.samples.mkdir(exist_ok=True)

    def log_step(self, record: "StepRecord") -> None:
        """Log a step's metrics; at every `training.sample_every`th and the last, write a grid and warn of faults."""
        import numpy as np

        from distill.composition import translated

        append_row(self._run.metrics, record.row(), self._is_first_step)
        self._is_first_step = False
        if self._tracker is not None:
            self._tracker.log(record.row(), step=record.step)
        if record.step % self._settings.sample_every == 0 or record.step == self._settings.steps:
            numbers = range(len(self._edits))
            edited = np.stack([translated(self._teacher, record.student, self._images, edit) for edit in numbers])
            sample = grid(self._images, edited)
            write_bytes(self._run.samples / f"step_{record.step:06d}.png", png_bytes(sample))
            self._warn(edited, late=2 * record.step > self._settings.steps)

    def close(self) -> None:
        """Join the grids into a GIF, and end the tracker."""
        write_animation(self._run.sample_grids(), self._run.film)
        if self._tracker is not None:
            self._tracker.finish()

    @cached_property
    def _images(self) -> "NDArray[np.uint8]":
        """The first images of the dataset, uint8 (N, H, W, 3)."""
        import numpy as np

        return np.stack([self._dataset.image(index) for index in range(min(NUM_SAMPLES, len(self._dataset)))])

    def _warn(self, edited: "NDArray[np.uint8]", late: bool) -> None:
        """Warn of each diagnostic of each edit once.

        Args:
            edited: the samples with every edit, uint8 (edits, N, H, W, 3).
            late: half of the training is done; before that, an edit that does not move yet is no reason to worry.
        """
        from distill.evaluation.diagnostics import NOTHING_MOVES, diagnose, measure_change

        for edit, images in zip(self._edits, edited, strict=True):
            # A recipe does not say whether the background may change, so that is not diagnosed.
            for diagnostic in diagnose(measure_change(self._images, images), whole_image=True):
                if (edit, diagnostic.name) in self._warned or (diagnostic.name == NOTHING_MOVES and not late):
                    continue
                self._warned.add((edit, diagnostic.name))
                logger.warning(f"{edit}: {diagnostic.name} ({diagnostic.measured}): {diagnostic.advice}")


def grid(images: "NDArray[np.uint8]", edited: "NDArray[np.uint8]") -> "Image.Image":
    """Tile images, uint8 (N, H, W, 3), and their edits, (K, N, H, W, 3): a row an image, the input first."""
    return tile_images(zip(images, *edited, strict=True))


def write_animation(grids: list[Path], film: Path) -> None:
    """Write grids as a GIF that rests on the last one. Of more than _MAX_FRAMES, every nth is shown."""
    from synth.images.encoding import gif_bytes

    if not grids:
        return
    every = -(-len(grids) // _MAX_FRAMES)
    # Counted from the end, so that the last grid is always among them.
    frames = [open_image(path) for path in grids[::-1][::every][::-1]]
    times = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
    write_bytes(film, gif_bytes(frames, times))


def open_tracker(recipe: Recipe, run: RunFolder) -> Any:
    """Start the recipe's tracker by way of accelerate; None if training.tracker is "none".

    Raises:
        TrainingError: if its package is not installed.
    """
    name = recipe.training.tracker
    if name == "none":
        return None
    if importlib.util.find_spec(name) is None:
        raise TrainingError(f"training.tracker is {name}, which is not installed: pip install {name}")
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    tracker = TensorBoardTracker(name, run.path) if name == "tensorboard" else WandBTracker(recipe.name)
    tracker.start()
    return tracker


def append_row(path: Path, row: dict[str, float], is_first: bool) -> None:
    """Append one line to the log.

    A killed run may have logged steps after its last checkpoint, which the resumed run repeats. The first line that a
    process writes therefore drops the rows from its own step on.

    Raises:
        TrainingError: if the log is damaged.
    """
    if is_first and path.exists():
        with reading(path, TrainingError, "delete it, and the training resumes without its earlier metrics"):
            lines = path.read_bytes().split(b"\n")[:-1]
            earlier = [line for line in lines if parse_json(line, dict[str, float])["step"] < row["step"]]
        write_bytes(path, b"".join(line + b"\n" for line in earlier))
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
