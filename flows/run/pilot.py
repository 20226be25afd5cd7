"""A pilot: a recipe's whole chain on a few hundred images and steps, report and model file included, in minutes.

    runs/snow/          the full run's folder: the pilot paints the first images of its set, and nothing else in it
    runs/snow-pilot/    the pilot's own: its student, its model file, its report

What the images look like does not depend on how many there are. So the full run finds the pilot's painted, and
paints the rest. The training is another: each of its curves is shortened alike. With a learning rate that was meant
for 125,000 steps a few hundred barely move a student: the pilot shows that the chain holds, how quick it is and what
memory it takes. Whether the words work is what `distillery preview` shows.
"""

from pathlib import Path

from distill.settings import SCHEDULE_KEYS, scaled_to
from flows.config.loading import with_overrides
from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from synth.dataset.image_dataset import ImageDataset
from synth.errors import RunError

NUM_IMAGES = 200  # within one shard of the usual size
NUM_STEPS = 200
_NUM_SCENES, _NUM_NO_OP_SCENES = 20, 5  # that it is measured on: a first look, no result
_NUM_SAMPLES = 4  # sample grids, and checkpoints


def pilot_of(recipe: Recipe) -> Recipe:
    """The same recipe in small, under a name of its own, so that no pilot becomes the recipe's latest good model."""
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
            f"evaluation.num_scenes={min(_NUM_SCENES, evaluation.num_scenes)}",
            f"evaluation.num_no_op_scenes={min(_NUM_NO_OP_SCENES, evaluation.num_no_op_scenes)}",
        ],
    )
    return small.model_copy(update={"name": f"{recipe.name}-pilot"})


def prepare_pilot(recipe: Recipe, out: Path) -> tuple[Recipe, Path]:
    """The pilot's recipe and folder, beside `out`, the full run's, whose set it begins.

    Args:
        recipe: of the full run.
        out: the full run's folder, which becomes one, if it is none yet.

    Raises:
        RunError: if another recipe's run is in one of the folders, or the full run has painted beyond the pilot.
    """
    full, small = RunFolder.open_or_create(recipe, out), pilot_of(recipe)
    if (out / "dataset" / "data").exists() and len(ImageDataset(full.dataset)) > small.to_paint().count:
        raise RunError(f"the full run in {out} is beyond a pilot: go on with it, without --pilot")
    folder = out.with_name(f"{out.name}-pilot")
    RunFolder.open_or_create(small, folder).use_dataset(full.dataset)
    return small, folder
