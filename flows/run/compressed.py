"""Whether a run's pixel network, and its model file, belong to the student that the run has now."""

from pathlib import Path

from distill.settings import PIXEL_LOG_KEYS
from flows.config.naming import digest
from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from inference.settings import EVERY_KIND


def fingerprint_of_network(recipe: Recipe, run: RunFolder) -> str:
    """The fingerprint of all that the pixel network follows from: the student, and the recipe's settings."""
    return digest(run.fingerprint_of("distill"), recipe.pixel.model_dump(mode="json", exclude=PIXEL_LOG_KEYS))


def has_pixel_network(recipe: Recipe, run: RunFolder) -> bool:
    """Whether the pixel network that the recipe asks for is trained, on the student that the run has now."""
    if recipe.pixel.size == "none":
        return False
    return run.is_done("compress", fingerprint_of_network(recipe, run), run.pixel_network)


def pixel_model(recipe: Recipe, run: RunFolder) -> Path | None:
    """The pixel network's model file, if there is one of the network that the run has now."""
    return run.pixel_model if has_pixel_network(recipe, run) and run.pixel_model.exists() else None


def drop_pixel_files(run: RunFolder) -> None:
    """Delete the model files of a pixel network that another one is about to replace."""
    for kind in EVERY_KIND:
        for name in (kind.pixel_file_name, f"{kind.pixel_file_name}.data"):
            (run.path / name).unlink(missing_ok=True)
