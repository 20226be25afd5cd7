"""A run's student as its pixel network sees it, and whether that network and its files belong to the present one."""

from pathlib import Path
from typing import TYPE_CHECKING

from distill.settings import PIXEL_LOG_KEYS
from flows.config.naming import digest
from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from inference.settings import EVERY_KIND
from synth.errors import RunError, TrainingError

if TYPE_CHECKING:
    from distill.students import Student
    from synth.teacher.teacher import Teacher


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


def open_student(recipe: Recipe, run: RunFolder, teacher: "Teacher") -> "tuple[Student, str]":
    """Load the run's student on the teacher's device, with what tells it from any other.

    Raises:
        RunError: if there is none, or the recipe wants no pixel network.
        TrainingError: if it is damaged.
    """
    from distill.students import load_student
    from synth.teacher.identity import identify

    if recipe.pixel.size == "none":
        raise RunError(f"the recipe of {run.path} has pixel.size = none: choose one with --set pixel.size=small")
    if not run.student.exists():
        raise RunError(
            f"{run.path} has no student yet: `distillery distill RECIPE --data DATASET --out {run.path}` trains one"
        )
    student: Student = load_student(run.student).to(teacher.device).eval()
    return student, identify(str(run.student), TrainingError, f"delete {run.student}, and distil again")
