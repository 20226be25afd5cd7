"""Dry runs: time a little painting or training on this machine, extrapolate, and throw the result away."""

import time
from datetime import timedelta
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from flows.config.schema import Recipe
from flows.planning.disk import EXTRAS_FACTOR, checkpoints_of
from flows.planning.preflight import check_hours, preflight, preflight_lines, require
from flows.run.folder import RunFolder
from flows.shared_teacher import open_teacher
from flows.training.student import check_size
from synth.settings import SceneSettings
from synth.urls import is_url

if TYPE_CHECKING:
    from synth.teacher.teacher import Teacher

_MIN_IMAGES = 8  # in a dry run of the training: what the VAE encodes at once
_NUM_PAIRED = 4  # images in a dry run of the pixel network: what the student makes at once
_WARM_STEPS = 2  # of the sampler, before painting is timed
_NUM_STEPS = 3  # of which the first is not timed


def warm_up(teacher: "Teacher", settings: SceneSettings, num_images: int) -> None:
    """Paint a batch in a few steps and throw it away: a network's first call prepares kernels, which takes long.

    Args:
        teacher: the model that paints.
        settings: as `completed` returns them.
        num_images: that will be timed after it.
    """
    from synth.dataset.generate import paint
    from synth.dataset.prompts import Template

    size = min(settings.batch_size, num_images)
    steps = min(_WARM_STEPS, settings.num_inference_steps or _WARM_STEPS)
    short = settings.model_copy(update={"batch_size": size, "num_inference_steps": steps})
    scenes = [Template(settings).scene(index) for index in range(size)]
    teacher.check_prompts([scene.prompt for scene in scenes])
    paint(teacher, short, scenes)


def dry_run_painting(recipe: Recipe, out: str) -> str:
    """Paint one batch of the recipe's dataset, time it, extrapolate, and add the preflight of a run on it.

    Args:
        recipe: the scenes, the teacher, and the edits that a run would learn.
        out: the dataset's folder or URL.

    Returns:
        Lines for people.

    Raises:
        RecipeError: for a template that cannot be filled.
        TeacherError: for a prompt that the teacher cannot read.
    """
    from synth.dataset.generate import completed, paint
    from synth.dataset.prompts import Template
    from synth.images.encoding import png_bytes

    teacher = open_teacher(recipe.teacher)
    # A teacher that paints in a few steps cannot teach, and may paint all the same: this refuses nothing.
    checks = preflight(recipe, Path(out) if not is_url(out) else RunFolder.default_path(recipe), out, exports=False)
    settings = completed(recipe.to_paint(), teacher)
    template = Template(settings)
    scenes = [template.scene(index) for index in range(min(settings.batch_size, settings.count))]
    teacher.check_prompts([scene.prompt for scene in scenes])

    warm_up(teacher, settings, len(scenes))
    started = time.perf_counter()
    images = [image for image in paint(teacher, settings, scenes) if image is not None]
    seconds = (time.perf_counter() - started) / len(scenes)
    num_bytes = sum(len(png_bytes(image)) for image in images) / max(1, len(images))
    gigabytes = EXTRAS_FACTOR * num_bytes * settings.count / 1e9
    lines = [
        f"teacher   {teacher.name} on {teacher.device}",
        f"images    {settings.count} of {settings.image_size} px, {settings.num_inference_steps} steps, guidance "
        f"{settings.guidance_scale:g}, {template.num_combinations} combinations of words",
        f"shards    {-(-settings.count // settings.shard_size)} of up to {settings.shard_size}",
        f"time      {timedelta(seconds=round(seconds * settings.count))} at {1 / seconds:.2g} images a second, "
        "rejects not counted",
        f"disk      {gigabytes:.2g} GB",
        *(f"prompt {scene.index}  {scene.prompt}" for scene in scenes[:5]),
        "what a run would find before it paints:",
        *preflight_lines([*checks, check_hours(recipe, {"painting": seconds * settings.count})]),
    ]
    return "\n".join(lines)


def dry_run_compression(recipe: Recipe, out: Path) -> str:
    """Make a few pairs and steps of the recipe's pixel network, time them, and extrapolate.

    Args:
        recipe: with the settings of the network.
        out: the run folder, whose student is trained.

    Returns:
        Lines for people.

    Raises:
        DatasetError: if there is no dataset.
        RunError: if there is no student, or the recipe wants no pixel network.
        TrainingError: if the training cannot start.
    """
    from distill.compression.pairs import make_pairs
    from distill.compression.train import train
    from distill.training.precision import autocast_of
    from flows.run.compressed import open_student
    from synth.dataset.image_dataset import ImageDataset

    run, settings = RunFolder(out), recipe.pixel
    teacher = open_teacher(recipe.teacher)
    student, identity = open_student(recipe, run, teacher)
    dataset = ImageDataset(run.dataset)
    few = dataset.first(_NUM_PAIRED)
    # The dry run ends before the last step, which would write a checkpoint.
    steps = max(settings.steps, _NUM_STEPS + 1)
    short = settings.model_copy(update={"checkpoint_every": steps, "steps": steps})
    with TemporaryDirectory(prefix="distillery-dry-run-") as folder:
        place = Path(folder)
        # The networks' first calls are slow, and the latents are those of the student's training.
        make_pairs(teacher, student, identity, few, settings, place / "latents", place / "cold")
        started = time.perf_counter()
        pairs = make_pairs(teacher, student, identity, few, settings, place / "latents", place / "pairs")
        seconds_of_pairs = (time.perf_counter() - started) / len(few) * len(dataset)
        records = train(
            teacher, pairs, student.edits, short, {"data": ""}, place, autocast_of(recipe.training, teacher.device)
        )
        first, *later = islice(records, _NUM_STEPS)
    seconds = min(record.seconds for record in later)
    num_weights = sum(weight.numel() for weight in first.network.parameters())
    height, width = pairs.image_size
    gigabytes = len(dataset) * (1 + len(pairs) / len(few)) * 3 * height * width / 1e9
    lines = [
        f"student   {run.student}, by {teacher.name} on {teacher.device}",
        f"network   {settings.size}, {num_weights / 1e6:.2f}M weights, {4 * num_weights / 2**20:.1f} MiB in float32",
        f"pairs     {len(pairs) // len(few)} of each of {len(dataset)} images, in "
        f"{timedelta(seconds=round(seconds_of_pairs))}",
        f"time      {timedelta(seconds=round(seconds * settings.steps))} for {settings.steps} steps of "
        f"{seconds:.2g} s; grids not counted",
        f"disk      {gigabytes:.2g} GB of pairs",
    ]
    return "\n".join(lines)


def dry_run_training(recipe: Recipe, out: Path, data: str) -> str:
    """Check what can be known before the training, do a few steps of it, time them, and extrapolate.

    Args:
        recipe: the edits, and how to train.
        out: the run folder, which is not touched.
        data: the dataset's folder or URL.

    Returns:
        Lines for people.

    Raises:
        DatasetError: if there is no dataset.
        TrainingError: if the training cannot start.
    """
    from distill.training.train import train
    from distill.training.untrained import num_weights
    from synth.dataset.image_dataset import ImageDataset
    from synth.dataset.latents import encode

    settings = recipe.training
    checks = preflight(recipe, out, data, exports=False)
    require(checks)
    teacher = open_teacher(recipe.teacher)
    dataset = ImageDataset(data)
    check_size(recipe, teacher, dataset)
    few = dataset.first(max(settings.batch_size, _MIN_IMAGES))
    # The dry run ends before the last step, which would write a checkpoint.
    steps = max(settings.steps, _NUM_STEPS + 1)
    short = settings.model_copy(update={"checkpoint_every": settings.steps, "checkpoint_minutes": 0, "steps": steps})
    with TemporaryDirectory(prefix="distillery-dry-run-") as folder:
        # The first call of a network is slow: each part is timed when it is warm, and alone.
        encode(teacher, few, Path(folder) / "cold", progress=False)
        started = time.perf_counter()
        encode(teacher, few, Path(folder) / "latents", progress=False)
        encoding = (time.perf_counter() - started) / len(few) * len(dataset)
        records = train(teacher, few, recipe.texts(), recipe.edits, short, Path(folder), progress=False)
        first, *later = islice(records, _NUM_STEPS)

    seconds = min(record.seconds for record in later)
    num_all, num_learned = num_weights(teacher, first.student.edits, settings)
    gigabytes = checkpoints_of(recipe, 4 * num_all, 4 * num_learned) / 1e9
    kind = settings.student + (f", LoRA of rank {settings.lora_rank}" if settings.lora_rank else "")
    lines = [
        f"teacher   {teacher.name} on {teacher.device}",
        f"student   {kind}, {num_all / 1e6:.1f}M weights, {len(recipe.edits)} edits",
        f"images    {len(dataset)}, {settings.batch_size * settings.steps / len(dataset):.2g} times each",
        f"time      {timedelta(seconds=round(seconds * settings.steps))} for {settings.steps} steps of "
        f"{seconds:.2g} s, and {timedelta(seconds=round(encoding))} for the latents; grids not counted",
        f"memory    at most {later[-1].peak_memory_gib:.2g} GiB so far",
        f"disk      at most {gigabytes:.2g} GB of checkpoints",
        *preflight_lines([*checks, check_hours(recipe, {"training": seconds * settings.steps})]),
    ]
    return "\n".join(lines)
