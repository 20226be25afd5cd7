"""Second stage: a student learns all edits of the recipe from the painted set."""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.mirror import keep, keep_task, take_up_task
from flows.progress import Bar, key_of, markdown_picture, open_progress, say, show_markdown
from flows.recipe import Recipe
from flows.robust import RETRIES, gpu_alone
from flows.run_folder import RunFolder, digest
from flows.start import name_run, start
from flows.synthesize import open_teacher

if TYPE_CHECKING:
    from PIL import Image

    from distill.translator import LatentTranslator
    from synth.dataset import PaintedSet
    from synth.teacher import Teacher

_NUM_SAMPLES = 4  # images in a sample grid


def distill(recipe: Recipe, out: Path) -> Path:
    """Train the run's student to its last step, from its newest checkpoint on; returns the student's folder.

    Raises:
        DatasetError: if nothing was painted yet.
        TrainingError: if the training cannot start or go on.
    """
    from distill import checkpoints
    from distill.train import train
    from synth.dataset import PaintedSet
    from synth.prompts import Template

    run, settings = RunFolder.claim(recipe, out), recipe.training
    teacher, painted = open_teacher(recipe.teacher), PaintedSet(run.dataset)
    made_from = digest(teacher.fingerprint, painted.fingerprint, recipe.edits, settings.model_dump(mode="json"))
    if run.is_done("distill", made_from, run.student):
        say(f"the student of {settings.steps} steps is in {run.student}: nothing to train")
        return run.student
    teacher.require_scorer()
    run.samples.mkdir(exist_ok=True)
    say(f"distilling from {teacher.name} on {teacher.device}")
    artifact = open_progress("steps", recipe.name)
    with Bar("distilling", settings.steps, "step", artifact=artifact) as bar:
        for record in train(teacher, painted, Template(recipe.scenes), recipe.edits, settings, run.path):
            _log(run.metrics, record.row(), first=bar.n == 0)
            bar.set_postfix(omega=f"{record.guidance_scale:.2f}", moved=f"{record.identity:.4f}")
            bar.update(record.step - bar.n)
            if record.step % settings.sample_every == 0 or record.step == settings.steps:
                draw_samples(teacher, record.student, painted).save(run.samples / f"step_{record.step:06d}.png")
            if record.step % settings.checkpoint_every == 0:
                keep(recipe, out)
    newest = checkpoints.latest(run.path)
    assert newest is not None, "a training ends with a checkpoint"
    _save(checkpoints.load_student(newest), run.student)
    run.mark_done("distill", made_from)
    return run.student


def draw_samples(teacher: "Teacher", student: "LatentTranslator", painted: "PaintedSet") -> "Image.Image":
    """A few painted images, a row each: the image, then every edit of it as the student makes it now."""
    import numpy as np
    import torch
    from PIL import Image

    from synth.pixels import to_float, to_uint8

    images = np.stack([painted.image(index) for index in range(min(_NUM_SAMPLES, len(painted)))])
    x = to_float(torch.from_numpy(images)).to(teacher.device)  # (N, 3, H, W)
    with torch.no_grad():
        z_hat = teacher.encode(x).float()
        decoded = teacher.decode(z_hat).float()
        columns = [x]
        for edit in range(len(student.edits)):
            delta = student(z_hat, torch.full((len(x),), edit, device=teacher.device))
            columns.append(x + (teacher.decode(z_hat + delta).float() - decoded))
    grid = np.concatenate([to_uint8(column) for column in columns], axis=2)  # (N, H, (1 + K) W, 3)
    return Image.fromarray(np.concatenate(list(grid)))  # (N H, (1 + K) W, 3)


def _log(path: Path, row: dict[str, float], first: bool) -> None:
    """One line a step. A run that was killed may have logged steps behind its last checkpoint; they are done again,
    so the first line of a new process drops them."""
    if first and path.exists():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        path.write_text("".join(line for line in lines if json.loads(line)["step"] < row["step"]))
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _save(student: "LatentTranslator", folder: Path) -> None:
    """Whole or not at all."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    student.save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


@task(name="train", cache_policy=NO_CACHE, **RETRIES)  # the checkpoints are the cache
def train_task(recipe: Recipe, out: Path) -> Path:
    """The training's steps that are not done yet."""
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
    run = RunFolder.claim(recipe, out)
    if data is not None:
        run.use_dataset(data)
    before = run.last_work()
    with gpu_alone(recipe.teacher.device), run.timed("training"):
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
        page = f"Columns: {caption}.\n\n{markdown_picture(samples[-1].read_bytes(), caption)}"
        show_markdown(key_of(recipe.name, "samples"), page, f"{recipe.name}: painted images, edited")
