"""A pilot: all stages of a recipe on a few hundred images and steps, in minutes.

    runs/snow/          the full run's folder: the pilot paints the first images of its dataset, and nothing else
    runs/snow-pilot/    the pilot's own folder: student, model file, report

An image does not depend on how many there are, so the full run finds the pilot's images and paints the rest. The
pilot trains its own student, with all schedules shortened alike. A few hundred steps at a learning rate for 125,000
barely move a student: the pilot shows that all stages work, how fast they are and how much memory they take. To see
whether the prompts work, use `distillery preview`.
"""

import os
from pathlib import Path

from distill.settings import SCHEDULE_KEYS, scaled_to
from flows.config.loading import with_overrides
from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from synth.dataset.image_dataset import ImageDataset
from synth.errors import RunError

NUM_IMAGES = 200  # fits into one shard of the default size
NUM_STEPS = 200
_NUM_SCENES, _NUM_NO_OP_SCENES = 20, 5  # evaluated on so few for a first look, not for a result
_NUM_SAMPLES = 4  # sample grids, and as many checkpoints


def pilot_of(recipe: Recipe) -> Recipe:
    """Scale a recipe down, and rename it so that no pilot becomes the recipe's latest good model."""
    evaluation = recipe.evaluation
    training = scaled_to(recipe.training, min(NUM_STEPS, recipe.training.steps))
    every = max(1, training.steps // _NUM_SAMPLES)
    small = with_overrides(
        recipe,
        [
            f"scenes.count={min(NUM_IMAGES, recipe.to_paint().count)}",
            *(f"training.{key}={getattr(training, key)}" for key in ("steps", *SCHEDULE_KEYS)),
            f"training.checkpoint_every={every}",
            f"training.sample_every={every}",
            f"pixel.steps={min(NUM_STEPS, recipe.pixel.steps)}",
            f"pixel.checkpoint_every={every}",
            f"pixel.sample_every={every}",
            f"evaluation.num_scenes={min(_NUM_SCENES, evaluation.num_scenes)}",
            f"evaluation.num_no_op_scenes={min(_NUM_NO_OP_SCENES, evaluation.num_no_op_scenes)}",
        ],
    )
    return small.model_copy(update={"name": f"{recipe.name}-pilot"})


def prepare_pilot(recipe: Recipe, out: Path) -> tuple[Recipe, Path]:
    """Create the pilot's folder beside the full run's, whose dataset it starts.

    Args:
        recipe: the full run's recipe.
        out: the full run's folder; created if needed.

    Returns:
        The pilot's recipe and folder.

    Raises:
        RunError: if another recipe's run is in one of the folders, or the full run has more images than the pilot.
    """
    full = RunFolder.open_or_create(recipe, out)
    small = pilot_of(recipe)
    if (out / "dataset" / "data").exists() and len(ImageDataset(full.dataset)) > small.to_paint().count:
        raise RunError(f"the full run in {out} is beyond a pilot: continue it without --pilot")
    folder = beside(out)
    RunFolder.open_or_create(small, folder).use_dataset(full.dataset)
    return small, folder


def beside(out: Path) -> Path:
    """Return the pilot's folder, beside the full run's."""
    place = out if out.name and out.name != ".." else Path(os.path.abspath(out))  # `.` has no name
    return place.with_name(f"{place.name}-pilot")
