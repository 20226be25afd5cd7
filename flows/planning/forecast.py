"""What the stages of a run will take on this machine, from a second of calibration, and what they took.

A first line for people who wait, not a promise: it counts the passes of the networks, and times a few of them. Other
work on the machine during the run is not in it. `distillery preview` and `--dry-run` look closer.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.costs import passes_per_image
from distill.settings import edits_of_an_image, pixel_edits_of_an_image
from flows.config.schema import Recipe
from flows.evaluation.scenes import has_true_answers
from flows.planning.estimates import duration, flops_of_recipe
from flows.run.compressed import has_pixel_network
from flows.run.folder import RunFolder
from flows.shared_teacher import open_teacher

if TYPE_CHECKING:
    from synth.teacher.teacher import Teacher

logger = logging.getLogger(__name__)

_SLOW_PASS = 0.5  # s; a network that takes so long for one latent is not asked for a whole batch
_STEP_OVERHEAD = 1.25  # the optimizer, the average, checkpoints and sample grids, with the miniature
_DECODES_MEASURED = 5.5  # a measured image: one pass of the model file, the VAE's own reconstruction, the metrics
_PASSES_EXPORTED = 115  # tracing a student costs as much as so many of its passes on a batch, at any image size
_BATCH = 28  # latents of that batch


@dataclass(frozen=True)
class Speed:
    """Of this machine, for images of one size."""

    seconds_per_painting_pass: float
    """One pass of the teacher's network for one latent, in the batches that it paints."""
    seconds_per_training_pass: float
    """The same in the batches and the precision of the training."""
    seconds_per_decode: float
    """One image through the VAE's decoder."""
    seconds_per_pixel_step: float = 0.0
    """One step of the pixel network's training; 0 where the recipe wants none."""
    student: float = 1.0
    """A pass of the student, over one of the teacher."""


@dataclass(frozen=True)
class Work:
    """What is left to do of a run."""

    images: int
    """To paint."""
    steps: int
    """To train."""
    measured: int
    """Images that go through the model file to measure it; 0 where no true answer is known."""
    pixel_steps: int = 0
    """To train of the pixel network; its pairs are made before."""


def announce(recipe: Recipe, run: RunFolder) -> dict[str, float]:
    """Log the stages that lie before a run, each with its estimate on this machine.

    A run whose networks are trained gets none, since what is left takes minutes, and so does one that other machines
    paint or other processes train: this process's speed says nothing about theirs.

    Returns:
        The estimates in seconds, by stage; none where nothing is announced.
    """
    from synth.dataset.generate import completed

    compressed = recipe.pixel.size == "none" or has_pixel_network(recipe, run)
    operations = recipe.operations
    by_others = operations.runner == "ray" or operations.launches_training
    if (run.student.exists() and compressed) or by_others:
        return {}
    if recipe.scenes is not None:
        scenes = completed(recipe.scenes, open_teacher(recipe.teacher))
        recipe = recipe.model_copy(update={"scenes": scenes})
    work = work_left(recipe, run)
    seconds = seconds_of_stages(recipe, work, measure_speed(recipe))
    logger.info("the stages, and what they may take on this machine:")
    for line in table(seconds, details=_details(recipe, work)):
        logger.info(line)
    return seconds


def work_left(recipe: Recipe, run: RunFolder) -> Work:
    """Count what a run still has to do, from what is on disk."""
    from distill.training import checkpoints
    from synth.dataset.image_dataset import ImageDataset
    from synth.errors import DatasetError

    images = 0
    if recipe.scenes is not None:
        try:
            images = max(0, recipe.scenes.count - len(ImageDataset(run.dataset)))
        except DatasetError:  # nothing is painted yet; the stage itself reports what is damaged
            images = recipe.scenes.count
    newest = checkpoints.latest(run.path)
    done = int(newest.name.removeprefix("step_")) if newest is not None else 0
    settings = recipe.evaluation
    scenes = settings.num_scenes + min(settings.num_no_op_scenes, settings.num_scenes)
    measured = len(recipe.edits) * scenes if has_true_answers(recipe) else 0
    to_compress = recipe.pixel.size != "none" and not has_pixel_network(recipe, run)
    pixel_steps = recipe.pixel.steps if to_compress else 0
    return Work(images, max(0, recipe.training.steps - done), measured, pixel_steps)


def seconds_of_stages(recipe: Recipe, work: Work, speed: Speed) -> dict[str, float]:
    """Estimate the seconds of each stage that has work to do, by the stages' names in `timings.json`.

    Args:
        recipe: with scenes that the teacher's defaults have completed.
        work: what is left of it.
        speed: of this machine.
    """
    seconds: dict[str, float] = {}
    if work.images and recipe.scenes is not None:
        assert recipe.scenes.num_inference_steps is not None, "the teacher's defaults have completed the scenes"
        passes = 2 * recipe.scenes.num_inference_steps  # with the prompt and without
        seconds["painting"] = work.images * (passes * speed.seconds_per_painting_pass + speed.seconds_per_decode)
    if work.steps:
        training = passes_per_image(recipe.training, len(recipe.edits), speed.student)
        training *= work.steps * recipe.training.batch_size
        seconds["training"] = _STEP_OVERHEAD * training * speed.seconds_per_training_pass
    if work.pixel_steps:
        num_images = recipe.scenes.count if recipe.scenes is not None else 0
        decodes = num_images * (1 + pixel_edits_of_an_image(recipe.pixel, len(recipe.edits)))  # the plain one, too
        seconds["compress"] = decodes * speed.seconds_per_decode + work.pixel_steps * speed.seconds_per_pixel_step
    seconds["export"] = _PASSES_EXPORTED * _BATCH * speed.seconds_per_painting_pass
    if work.measured:
        seconds["measuring"] = work.measured * _DECODES_MEASURED * speed.seconds_per_decode
    return seconds


def measure_speed(recipe: Recipe) -> Speed:
    """Time the teacher's networks, which takes about a second with the miniature.

    Args:
        recipe: with scenes that the teacher's defaults have completed.
    """
    import torch

    from distill.compression.train import seconds_of_step
    from distill.training.precision import autocast_of

    teacher = open_teacher(recipe.teacher)
    scenes = recipe.scenes
    side = ((scenes and scenes.image_size) or teacher.defaults.image_size) // teacher.vae_scale_factor
    latent = torch.zeros((1, teacher.latent_channels, side, side), device=teacher.device, dtype=teacher.dtype)
    one = _timed(_pass(teacher, latent))

    def in_batches_of(size: int) -> float:
        return one if one > _SLOW_PASS else _timed(_pass(teacher, latent.expand(size, -1, -1, -1))) / size

    painting = in_batches_of(2 * scenes.batch_size) if scenes is not None else one
    with autocast_of(recipe.training, teacher.device)():
        edits = edits_of_an_image(recipe.training, len(recipe.edits))
        training = in_batches_of(recipe.training.batch_size * edits)
    pixel_step = 0.0
    if recipe.pixel.size != "none":
        pixel_step = seconds_of_step(
            teacher, recipe.pixel, teacher.vae_scale_factor * side, autocast_of(recipe.training, teacher.device)
        )
    flops = flops_of_recipe(recipe, teacher.vae_scale_factor * side)
    decode = _timed(lambda: teacher.decode(latent))
    return Speed(painting, training, decode, pixel_step, flops.student / flops.teacher)


def table(seconds: Mapping[str, float], details: Mapping[str, str] | None = None) -> list[str]:
    """Format the seconds of stages as lines for people, their sum last."""
    rows = [*seconds.items(), ("in all", sum(seconds.values()))]
    return [f"  {name:10}{duration(value):>8}   {(details or {}).get(name, '')}".rstrip() for name, value in rows]


def _details(recipe: Recipe, work: Work) -> dict[str, str]:
    edits = edits_of_an_image(recipe.training, len(recipe.edits))
    return {
        "painting": f"{work.images} images",
        "training": f"{work.steps} steps of {recipe.training.batch_size} images, {edits} edits each",
        "compress": f"{work.pixel_steps} steps of {recipe.pixel.batch_size} pairs, after what the student makes",
        "measuring": f"{work.measured} images, whose true answers are known",
    }


def _pass(teacher: "Teacher", latents: Any) -> Callable[[], Any]:
    import torch

    timesteps = torch.full((len(latents),), 500, device=teacher.device)
    texts = teacher.null.expand(len(latents))
    return lambda: teacher.predict_noise_unguided(latents, timesteps, texts)


def _timed(call: Callable[[], Any]) -> float:
    """The seconds of a call that is not the first: the first one prepares kernels."""
    call().sum().item()  # waits for a GPU
    started = time.perf_counter()
    call().sum().item()
    return time.perf_counter() - started
