"""Train a run's student: the same loop in one process and in several."""

import logging
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from distill.settings import ROUNDING_KEYS
from flows.config.naming import digest
from flows.config.schema import Recipe
from flows.orchestration.progress import Bar, open_progress
from flows.run.dataset_link import same_dataset
from flows.run.excerpt import keep_excerpt
from flows.run.folder import RunFolder, save_network
from flows.run.uploads import Uploads
from flows.shared_teacher import open_teacher
from flows.training.early_stopping import EarlyStopping
from flows.training.log import TrainingLog
from synth.errors import DatasetError, TrainingError

if TYPE_CHECKING:
    from accelerate import PartialState

    from distill.training.train import StepRecord
    from synth.dataset.image_dataset import ImageDataset
    from synth.teacher.teacher import Teacher

logger = logging.getLogger(__name__)


def train_student(recipe: Recipe, run: RunFolder) -> Path:
    """Train the run's student to its last step, resuming from its newest checkpoint.

    Processes that `accelerate launch` started share the work. Only the main process writes the run folder.

    Args:
        recipe: the edits, and how to train.
        run: the run folder, open already, which names its dataset.

    Returns:
        The student's folder.

    Raises:
        DatasetError: if there is no dataset yet.
        TrainingError: if the training cannot start or resume, or the images are of another size.
    """
    from distill.training import checkpoints
    from distill.training.train import train
    from synth.dataset.image_dataset import ImageDataset

    processes = join_processes(recipe)
    settings = recipe.training
    teacher = open_teacher(recipe.teacher)
    dataset = ImageDataset(run.dataset)
    # A student is up to date unless something that it depends on changes. The interval between samples counts only
    # with early stopping, which evaluates at the samples.
    ignored = ROUNDING_KEYS if settings.patience else {*ROUNDING_KEYS, "sample_every"}
    relevant = settings.model_dump(mode="json", exclude=ignored)
    made_from = digest(teacher.fingerprint, dataset.fingerprint, recipe.edits, relevant)
    if run.is_done("distill", made_from, run.student):
        logger.info(f"the student of {settings.steps} steps is in {run.student}: nothing to train")
        return run.student
    teacher.require_scorer()
    check_size(recipe, teacher, dataset)
    if (newest := checkpoints.latest(run.path)) is not None:  # before the images are encoded, which takes long
        checkpoints.refuse_other_data(newest, dataset.fingerprint)

    is_main = processes.is_main_process
    steps = train(teacher, dataset, recipe.texts(), recipe.edits, settings, run.path, is_main)
    observer = _Observer(recipe, run, teacher, dataset, processes.num_processes) if is_main else None
    stopped = bool(settings.patience) and _from_main(observer is not None and observer.resume())
    with observer or nullcontext():
        for record in () if stopped else steps:
            if observer is not None:
                stopped = observer.follow(record)
            # `_from_main` is a collective call: every process makes it, at the same steps.
            if settings.patience and record.step % settings.sample_every == 0 and _from_main(stopped):
                break
    steps.close()  # the last checkpoint is on disk
    if observer is not None:
        observer.save_student()
        keep_excerpt(run, dataset)
        run.mark_done("distill", made_from)
    processes.wait_for_everyone()
    return run.student


class _Observer:
    """What the main process does besides training: log, upload, decide when to stop, and save the student."""

    def __init__(
        self, recipe: Recipe, run: RunFolder, teacher: "Teacher", dataset: "ImageDataset", num_processes: int
    ) -> None:
        together = f", in {num_processes} processes" if num_processes > 1 else ""
        logger.info(f"distilling from {teacher.name} on {teacher.device}{together}")
        self._recipe = recipe
        self._run = run
        self._log = TrainingLog(recipe, run, teacher, dataset)
        patience = recipe.training.patience
        self._early_stopping = EarlyStopping(recipe, run, teacher, dataset) if patience else None
        self._uploads = Uploads(recipe, run.path)
        artifact = open_progress("steps", recipe.name)
        self._bar = Bar("distilling", recipe.training.steps, "step", artifact=artifact, leave=False)

    def __enter__(self) -> "_Observer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._bar.close()
        self._uploads.__exit__(kind, *error)

    def resume(self) -> bool:
        """Whether the training stopped early at its newest checkpoint."""
        from distill.training import checkpoints

        newest = checkpoints.latest(self._run.path)
        return self._early_stopping is not None and newest is not None and self._early_stopping.resume(newest)

    def follow(self, record: "StepRecord") -> bool:
        """Log a step, and return whether the training should stop after it."""
        self._log.log_step(record)
        self._bar.set_postfix(omega=f"{record.guidance_scale:.2f}", moved=f"{record.identity:.4f}")
        self._bar.advance_to(record.step)
        if record.has_checkpoint:
            self._uploads.ask()
        if self._early_stopping is None or record.step % self._recipe.training.sample_every:
            return False
        return self._early_stopping.should_stop(record.step, record.student)

    def save_student(self) -> None:
        """Save the best student of early stopping, or without that the last one."""
        from distill.students import load_student
        from distill.training import checkpoints

        self._log.close()
        if self._early_stopping is not None and self._early_stopping.best is not None:
            student = load_student(self._early_stopping.best)
        else:
            newest = checkpoints.latest(self._run.path)
            assert newest is not None, "a training ends with a checkpoint"
            student = checkpoints.restore_student(newest)
        save_network(student, self._run.student)


def join_processes(recipe: Recipe) -> "PartialState":
    """Join the processes that `accelerate launch` started to train together; without it there is one."""
    import torch
    from accelerate import PartialState

    on_cpu = recipe.teacher.device == "cpu" or not torch.cuda.is_available()
    # The timeout is long because the others wait while the main process encodes the dataset, which may take hours.
    return PartialState(cpu=on_cpu, timeout=timedelta(hours=recipe.operations.timeout_hours))


def _from_main(value: bool) -> bool:
    """Send the main process's value to every process."""
    from accelerate.utils import broadcast_object_list

    return bool(broadcast_object_list([value])[0])


def attach_dataset(run: RunFolder, data: str) -> None:
    """Let a run use a dataset outside its folder, which may be yet to paint.

    Args:
        run: the run folder.
        data: the dataset's folder or URL.

    Raises:
        TrainingError: if the run was trained on another dataset.
    """
    from distill.training import checkpoints
    from synth.dataset.image_dataset import ImageDataset

    newest = checkpoints.latest(run.path)
    if newest is not None and not same_dataset(data, run.dataset):
        try:
            fingerprint = ImageDataset(data).fingerprint
        except DatasetError:
            fingerprint = None  # there is no dataset yet
        if fingerprint is not None and fingerprint != checkpoints.trained_on(newest):
            raise TrainingError(f"{run.path} was trained on another dataset than {data}: choose another --out")
    run.use_dataset(data)


def check_size(recipe: Recipe, teacher: "Teacher", dataset: "ImageDataset") -> None:
    """Refuse painted images that are not of the recipe's size; warn of other photographs, and of more images.

    Raises:
        TrainingError: for painted images of another size.
    """
    if not len(dataset):
        return  # `train` refuses an empty dataset
    if recipe.scenes is not None and len(dataset) > recipe.scenes.count:
        logger.warning(
            f"the dataset has {len(dataset)} images, more than scenes.count={recipe.scenes.count}: the student is "
            "trained on all of them"
        )
    height, width, _ = dataset.image(0).shape
    expected = (recipe.scenes and recipe.scenes.image_size) or teacher.defaults.image_size
    if (height, width) == (expected, expected):
        return
    if recipe.scenes is not None:
        raise TrainingError(
            f"the dataset's images are {width} x {height}, but the recipe asks for {expected} x {expected}: paint a "
            f"dataset of that size, or train at this size with scenes.image_size={width}"
        )
    logger.warning(
        f"the images are {width} x {height}, but {teacher.name} was trained at {expected} x {expected} and may not "
        f"recognise what they show; `distillery import-photos --size {expected}` resizes them"
    )
