"""Train a run's pixel network on what its student makes of the run's dataset."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from distill.settings import NUM_SAMPLES, PIXEL_LOG_KEYS
from flows.config.naming import digest
from flows.config.schema import Recipe
from flows.orchestration.progress import Bar, open_progress
from flows.run.compressed import drop_pixel_files, fingerprint_of_network, open_student
from flows.run.folder import RunFolder, save_network
from flows.run.uploads import Uploads
from flows.shared_teacher import open_teacher
from flows.training.log import append_row, grid
from synth.errors import TrainingError
from synth.files import make_folder, remove_folder, write_bytes
from synth.images.encoding import png_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill.compression.train import PixelRecord

logger = logging.getLogger(__name__)


def train_pixel_network(recipe: Recipe, run: RunFolder) -> Path:
    """Train the run's pixel network to its last step, resuming from its pairs and its newest checkpoint.

    A training has a folder of its own, named after all that it depends on: one that was interrupted is never mixed
    up with that of another student or other settings.

    Args:
        recipe: with the settings of the network.
        run: the run folder, whose student is trained.

    Returns:
        The network's folder.

    Raises:
        RunError: if there is no student, or the recipe wants no pixel network.
        DatasetError: if there is no dataset.
        TrainingError: if the training cannot start or resume.
    """
    from distill.compression.pairs import make_pairs
    from distill.compression.train import train
    from distill.pixel import PixelNetwork
    from distill.training.checkpoints import latest
    from distill.training.precision import autocast_of
    from synth.dataset.image_dataset import ImageDataset
    from synth.state import read_network

    settings = recipe.pixel
    made_from = fingerprint_of_network(recipe, run)
    if run.is_done("compress", made_from, run.pixel_network):
        logger.info(f"the pixel network of {settings.steps} steps is in {run.pixel_network}: nothing to train")
        return run.pixel_network

    dataset = ImageDataset(run.dataset)
    teacher = open_teacher(recipe.teacher)
    student, identity = open_student(recipe, run, teacher)
    logger.info(f"compressing the student into a pixel network, {settings.size}, on {teacher.device}")
    with Bar("pairs", len(dataset), "image", artifact=open_progress("pairs", recipe.name), leave=False) as bar:
        pairs = make_pairs(teacher, student, identity, dataset, settings, run.path / "latents", run.pairs, bar)

    depends_on = {"data": dataset.fingerprint, "teacher": teacher.fingerprint, "student": identity}
    relevant = settings.model_dump(mode="json", exclude=PIXEL_LOG_KEYS)
    folder = run.pixel / f"training-{digest(depends_on, relevant)}"
    make_folder(folder / "samples")
    images = [dataset.image(index) for index in range(min(NUM_SAMPLES, len(dataset)))]
    steps = train(
        teacher, pairs, student.edits, settings, depends_on, folder, autocast_of(recipe.training, teacher.device)
    )
    observer = _Observer(recipe, folder, images)
    artifact = open_progress("pixel steps", recipe.name)
    with (
        Uploads(recipe, run.path) as uploads,
        Bar("compressing", settings.steps, "step", artifact=artifact, leave=False) as bar,
    ):
        for record in steps:
            observer.follow(record)
            if record.step % settings.checkpoint_every == 0:
                uploads.ask()
            bar.set_postfix(pixels=f"{record.pixels:.4f}")
            bar.advance_to(record.step)

    newest = latest(folder)
    assert newest is not None, "a training ends with a checkpoint"
    network = read_network(
        PixelNetwork, newest / "averaged", TrainingError, f"delete {newest}, and repeat the command"
    )
    drop_pixel_files(run)  # before the network that they are not of
    save_network(network, run.pixel_network)
    run.mark_done("compress", made_from)
    for former in run.pixel.glob("training-*"):  # of another student, or other settings
        if former != folder and former.is_dir():
            remove_folder(former)
    return run.pixel_network


class _Observer:
    """What people follow the training by: metrics and sample grids."""

    def __init__(self, recipe: Recipe, folder: Path, images: "list[NDArray[np.uint8]]") -> None:
        import numpy as np

        self._recipe = recipe
        self._folder = folder
        self._images = np.stack(images)
        self._is_first = True

    def follow(self, record: "PixelRecord") -> None:
        """Log a step; at every `pixel.sample_every`th and the last, write a grid."""
        import numpy as np

        from distill.pixel import translated

        settings = self._recipe.pixel
        append_row(self._folder / "metrics.jsonl", record.row(), self._is_first)
        self._is_first = False
        if record.step % settings.sample_every == 0 or record.step == settings.steps:
            numbers = range(len(self._recipe.edits))
            samples = np.stack([translated(record.network, self._images, number) for number in numbers])
            name = f"step_{record.step:06d}.png"
            write_bytes(self._folder / "samples" / name, png_bytes(grid(self._images, samples)))
