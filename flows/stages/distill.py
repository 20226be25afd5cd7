"""Second stage: a student learns all edits of the recipe from the painted set."""

import time
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from distill.settings import ROUNDING_KEYS
from flows.config.recipe import Recipe
from flows.orchestration.flow_run import name_run, start
from flows.orchestration.progress import Bar, key_of, markdown_image, open_progress, say, show_markdown
from flows.orchestration.retries import RETRIES, exclusive_gpu
from flows.planning.estimates import checkpoints_of
from flows.run.folder import RunFolder, digest, save_student
from flows.run.remote_copy import keep, keep_task, take_up_task
from flows.stages.synthesize import open_teacher
from flows.training.early_stopping import EarlyStopping
from flows.training.launcher import distill_together
from flows.training.log import TrainingLog
from synth.errors import DatasetError, TrainingError

if TYPE_CHECKING:
    from accelerate import PartialState

    from synth.dataset.image_dataset import ImageDataset
    from synth.teacher.teacher import Teacher

_FEW, _TRIED = 4, 3  # images and steps of a dry run


def distill(recipe: Recipe, out: Path, data: str | None = None) -> Path:
    """Train the run's student to its last step, from its newest checkpoint on; returns the student's folder.

    Started by `accelerate launch` in several processes, they share the work, and the main one writes.

    Args:
        recipe: the edits, and how to train.
        out: the run folder.
        data: where the painted set is, a folder or a URL, if not in the run folder.

    Raises:
        DatasetError: if nothing was painted yet.
        TrainingError: if the training cannot start or go on, or the set's images are of another size.
    """
    from distill import checkpoints
    from distill.students import load_student
    from distill.train import train
    from synth.dataset.image_dataset import ImageDataset

    processes, settings = _join(recipe), recipe.training
    with processes.main_process_first():
        run = RunFolder.open_or_create(recipe, out)
        if data is not None:
            attach_dataset(run, data)
    teacher, painted = open_teacher(recipe.teacher), ImageDataset(run.dataset)
    matters = settings.model_dump(
        mode="json", exclude=ROUNDING_KEYS if settings.patience else {*ROUNDING_KEYS, "sample_every"}
    )
    made_from = digest(teacher.fingerprint, painted.fingerprint, recipe.edits, matters)
    if run.is_done("distill", made_from, run.student):
        say(f"the student of {settings.steps} steps is in {run.student}: nothing to train")
        return run.student
    teacher.require_scorer()
    check_size(recipe, teacher, painted)
    steps = train(teacher, painted, recipe.texts(), recipe.edits, settings, run.path, processes.is_main_process)
    if not processes.is_main_process:
        for record in () if settings.patience and _agreed(False) else steps:
            if settings.patience and record.step % settings.sample_every == 0 and _agreed(False):
                break
        processes.wait_for_everyone()
        return run.student
    say(f"distilling from {teacher.name} on {teacher.device}{_shared_by(processes.num_processes)}")
    watch, artifact = TrainingLog(recipe, run, teacher, painted), open_progress("steps", recipe.name)
    stopping = EarlyStopping(recipe, run, teacher, painted) if settings.patience else None
    newest = checkpoints.latest(run.path)
    done = stopping is not None and _agreed(newest is not None and stopping.resume(newest))
    with Bar("distilling", settings.steps, "step", artifact=artifact) as bar:
        for record in () if done else steps:
            watch.see(record)
            bar.set_postfix(omega=f"{record.guidance_scale:.2f}", moved=f"{record.identity:.4f}")
            bar.update(record.step - bar.n)
            if record.step % settings.checkpoint_every == 0:
                keep(recipe, out)
            if stopping is None or record.step % settings.sample_every:
                continue
            if _agreed(stopping.see(record.step, record.student)):
                break
    watch.close()
    if stopping is not None and stopping.best is not None:
        save_student(load_student(stopping.best), run.student)
    else:
        newest = checkpoints.latest(run.path)
        assert newest is not None, "a training ends with a checkpoint"
        save_student(checkpoints.restore_student(newest), run.student)
    run.mark_done("distill", made_from)
    processes.wait_for_everyone()
    return run.student


def attach_dataset(run: RunFolder, data: str) -> None:
    """Let a run take a set that lies elsewhere; one that is not there yet may be painted there.

    Raises:
        TrainingError: if the run was trained on another set.
    """
    from distill import checkpoints
    from synth.dataset.image_dataset import ImageDataset

    newest = checkpoints.latest(run.path)
    if newest is not None and data != run.dataset:
        try:
            there = ImageDataset(data).fingerprint
        except DatasetError:
            there = None
        if there is not None and there != checkpoints.trained_on(newest):
            raise TrainingError(f"{run.path} was trained on another set than {data}: choose another --out")
    run.use_dataset(data)


def check_size(recipe: Recipe, teacher: "Teacher", painted: "ImageDataset") -> None:
    """Refuse a painted set of another size than the recipe's; of photographs, only say so.

    Raises:
        TrainingError: with what to do.
    """
    if not len(painted):
        return  # has an error of its own
    height, width, _ = painted.image(0).shape
    wanted = (recipe.scenes and recipe.scenes.image_size) or teacher.defaults.image_size
    if (height, width) == (wanted, wanted):
        return
    if recipe.scenes is not None:
        raise TrainingError(
            f"the set's images are {width} x {height} and the recipe's {wanted} x {wanted}: paint a set of that "
            f"size, or train at the set's own by scenes.image_size={width}"
        )
    say(
        f"the images are {width} x {height} and {teacher.name} was trained at {wanted} x {wanted}: it may not know "
        f"what it sees; `distillery import-photos --size {wanted}` makes them so"
    )


def _join(recipe: Recipe) -> "PartialState":
    """The processes that train together; one alone unless `accelerate launch` started more. It gives each its GPU."""
    import torch
    from accelerate import PartialState

    on_cpu = recipe.teacher.device == "cpu" or not torch.cuda.is_available()
    # The others wait while the main one encodes the set.
    return PartialState(cpu=on_cpu, timeout=timedelta(hours=recipe.operations.timeout_hours))


def _agreed(stop: bool) -> bool:
    """What the main process says, on all of them."""
    from accelerate.utils import broadcast_object_list

    return bool(broadcast_object_list([stop])[0])


def _shared_by(num_processes: int) -> str:
    return f", in {num_processes} processes" if num_processes > 1 else ""


def plan(recipe: Recipe, data: str) -> str:
    """What the training will take on this machine: a few steps are done, measured and thrown away.

    Args:
        recipe: the edits, and how to train.
        data: where the painted set is.

    Raises:
        DatasetError: if there is no set.
        TrainingError: if the training could not start.
    """
    from itertools import islice

    from distill.students import num_weights
    from distill.train import train
    from synth.dataset.image_dataset import ImageDataset

    settings, teacher, painted = recipe.training, open_teacher(recipe.teacher), ImageDataset(data)
    check_size(recipe, teacher, painted)
    few = painted.first(max(settings.batch_size, _FEW))
    alone = settings.model_copy(update={"checkpoint_every": settings.steps, "steps": max(settings.steps, _TRIED + 1)})
    with TemporaryDirectory(prefix="distillery-plan-") as folder:
        started = time.perf_counter()
        records = train(teacher, few, recipe.texts(), recipe.edits, alone, Path(folder), progress=False)
        first = next(records)
        before = time.perf_counter() - started - first.seconds  # the networks' first calls are no measure
        later = list(islice(records, _TRIED - 1))
    seconds = min(record.seconds for record in later)
    num_all, num_learned = num_weights(teacher, first.student.edits, settings)
    gigabytes = checkpoints_of(recipe, 4 * num_all, 4 * num_learned) / 1e9
    encoding = before / len(few) * len(painted)
    kind = settings.student + (f", LoRA of rank {settings.lora_rank}" if settings.lora_rank else "")
    lines = [
        f"teacher   {teacher.name} on {teacher.device}",
        f"student   {kind}, {num_all / 1e6:.1f}M weights, {len(recipe.edits)} edits",
        f"images    {len(painted)}, {settings.batch_size * settings.steps / len(painted):.2g} times each",
        f"time      {timedelta(seconds=round(seconds * settings.steps))} for {settings.steps} steps of "
        f"{seconds:.2g} s, and at most {timedelta(seconds=round(encoding))} for the latents; grids not counted",
        f"memory    {later[-1].peak_memory_gib:.2g} GiB at the most so far",
        f"disk      at most {gigabytes:.2g} GB of checkpoints",
    ]
    return "\n".join(lines)


@task(name="train", cache_policy=NO_CACHE, **RETRIES)  # the checkpoints are the cache
def train_task(recipe: Recipe, out: Path) -> Path:
    """The training's steps that are not done yet, in this process or in several."""
    operations = recipe.operations
    if operations.processes > 1 or operations.accelerate_config is not None:
        distill_together(recipe, RunFolder(out))
        return RunFolder(out).student
    return distill(recipe, out)


@flow(name="distill", flow_run_name="{recipe.name}")
def distill_flow(recipe: Recipe, out: Path, data: str | None = None, changes: tuple[str, ...] = ()) -> Path:
    """A painted set -> a student. A training that was stopped goes on from its last checkpoint.

    Args:
        recipe: the edits, and how to train.
        out: the run folder.
        data: where the painted set is, a folder or a URL, if not in the run folder.
        changes: keys of the recipe that are other, such as "training.steps=200".
    """
    recipe = start(recipe, changes)
    name_run(f"train {recipe.name} in {out}")
    take_up_task(recipe, out)
    run = RunFolder.open_or_create(recipe, out)
    if data is not None:
        attach_dataset(run, data)
    before = run.last_work()
    with exclusive_gpu(recipe.teacher.device, recipe.operations.processes), run.timed("training"):
        student = train_task.with_options(timeout_seconds=recipe.operations.timeout_hours * 3600)(recipe, out)
    if run.last_work() != before:
        keep_task(recipe, out)
        _show(recipe, run)
    return student


def _show(recipe: Recipe, run: RunFolder) -> None:
    """In the UI: painted images as the student edits them at its last step."""
    samples = sorted(run.samples.glob("step_*.png"))
    if samples:
        caption = "; ".join(["input", *recipe.edits])
        page = f"Columns: {caption}.\n\n{markdown_image(samples[-1].read_bytes(), caption)}"
        show_markdown(key_of(recipe.name, "samples"), page, f"{recipe.name}: painted images, edited")
