"""Run the study of pixel networks with the student and the images of a run."""

from pathlib import Path

from flows.config.schema import Recipe
from flows.evaluation.scenes import has_true_answers
from flows.evaluation.studies import run_study
from flows.run.compressed import open_student
from flows.run.folder import RunFolder
from flows.shared_teacher import open_teacher
from synth.errors import RunError


def study_compression(
    recipe: Recipe, run_dir: Path, out: Path, num_scenes: int | None = None, num_steps: int | None = None
) -> str:
    """Run the study of pixel networks with the student and the images of a run, into `out`.

    Args:
        recipe: the run's.
        run_dir: the run folder.
        out: the folder of the results, and of the pairs that the trainings share.
        num_scenes: drawn scenes per edit (default: the study's).
        num_steps: of each training (default: the study's).

    Returns:
        The finding.

    Raises:
        RunError: if the run has no student, was made from photographs, or has edits that the drawn world does not;
            or if `out` holds another study.
        DatasetError: if the run has no dataset.
    """
    from distill.studies.compression import Compression
    from synth.dataset.image_dataset import ImageDataset
    from synth.dataset.prompts import Template

    if recipe.scenes is None or not has_true_answers(recipe):
        raise RunError(f"{run_dir} edits no drawn scenes, whose true answers the study compares with")
    run = RunFolder(run_dir)
    dataset = ImageDataset(run.dataset)
    teacher = open_teacher(recipe.teacher)
    student, identity = open_student(recipe, run, teacher)
    counts = {"num_scenes": num_scenes, "num_steps": num_steps}
    study = Compression(
        student,
        identity,
        dataset,
        Template(recipe.scenes),
        recipe.edits,
        recipe.pixel,
        recipe.evaluation.given,
        folder=out,
        **{key: count for key, count in counts.items() if count is not None},
    )
    return run_study(study, teacher, out)
