"""Evaluate a run's model file against the true counterfactuals of the drawn world."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tqdm import tqdm

from flows.config.naming import digest
from flows.config.schema import Recipe
from flows.run.compressed import pixel_model
from flows.run.folder import RunFolder
from flows.run.lock import exclusive_folder
from flows.run.records import Evaluation, FileFacts, Metrics
from flows.shared_teacher import open_teacher
from synth.errors import RecipeError, RunError
from synth.files import write_bytes, write_text

if TYPE_CHECKING:
    from distill.evaluation.counterfactuals import Reader
    from distill.evaluation.metrics import Images
    from synth.teacher.teacher import Teacher
    from synth.world.scenes import WorldScene

logger = logging.getLogger(__name__)

_NUM_GRID_ROWS = 6
_NUM_TIMED = 5  # calls of a model file, of which the fastest counts
METHODS = ("student", "pixel network")
"""The names of the rows of the two model files."""
_MEASURE_AT = 128  # px; the only size that the factor readers know, while a model file takes any


def has_true_answers(recipe: Recipe) -> bool:
    """Whether drawn scenes can evaluate the run: its teacher paints the drawn world, which has its edits."""
    from distill.evaluation.counterfactuals import choose_scenes

    if recipe.teacher.id != "miniature":
        return False
    try:
        choose_scenes(recipe.edits, 1, recipe.evaluation.split, recipe.evaluation.given)
    except RecipeError:
        return False
    return True


def suffix_of(recipe: Recipe, split: str | None, num_scenes: int | None) -> str:
    """What the names of the files of an evaluation end in, so that a quick look replaces no metrics of the run.

    Args:
        recipe: the run's.
        split: of the drawn world (default: the recipe's).
        num_scenes: how many scenes (default: the recipe's number).

    Returns:
        "" for the recipe's own scenes, else such as "-shifted", or "-test-5" for another number of scenes.
    """
    own = recipe.evaluation
    if num_scenes not in (None, own.num_scenes):
        return f"-{split or own.split}-{num_scenes}"
    return "" if split in (None, own.split) else f"-{split}"


@dataclass(frozen=True)
class Measured:
    """What a model file was measured to be, not yet kept in its run folder."""

    evaluation: Evaluation
    grids: tuple[bytes, ...]
    """A PNG for each file: input, edit and true counterfactual."""
    suffix: str
    """Of the files' names; "" for the recipe's own scenes."""
    models: tuple[Path, ...]
    """The files that were measured: the student's and, if the run has one, the pixel network's."""
    exported: str
    """The fingerprint of their exports."""
    made_from: str
    """The fingerprint of all that the metrics follow from."""


def evaluate_model(recipe: Recipe, out: Path, reader: "Reader | None" = None) -> Path:
    """Measure the run's model files on the recipe's own split, and write evaluation.json and grid.png.

    Args:
        recipe: the run's recipe.
        out: the exported run's folder.
        reader: a factor reader (default: the strict one).

    Returns:
        The path of the evaluation.

    Raises:
        RunError: if there is no model file yet, or another command is at work on the folder.
        RecipeError: if the drawn world does not have the recipe's edits.
    """
    run = RunFolder(out)
    measured = measure_model(recipe, out, reader)
    if measured is not None:
        keep(run, measured)
    return run.evaluation


def measure_model(
    recipe: Recipe,
    out: Path,
    reader: "Reader | None" = None,
    split: str | None = None,
    num_scenes: int | None = None,
) -> Measured | None:
    """Measure the run's model files on unseen drawn scenes. Nothing is written, so another command may be at work.

    The pixel network's is measured on the same images as the student's, if the run has one.

    Args:
        recipe: the run's recipe.
        out: the exported run's folder.
        reader: a factor reader (default: the strict one).
        split: a split of the drawn world (default: the recipe's).
        num_scenes: how many scenes (default: the recipe's number).

    Returns:
        What was measured; None if the folder has it already.

    Raises:
        RunError: if there is no model file yet.
        RecipeError: if the drawn world does not have the recipe's edits.
    """
    from distill.evaluation.counterfactuals import average, choose_scenes, evaluate_edits, grid_image
    from inference.idle_gpu import warn_of_idle_gpu
    from inference.runtime import Translator
    from synth.images.encoding import png_bytes
    from synth.world.readers import FactorReader

    run = RunFolder(out)
    settings = recipe.evaluation
    if not run.model.exists():
        raise RunError(f"{out} has no model file yet: `distillery export {out}` writes one")
    if num_scenes is not None:
        settings = settings.model_copy(update={"num_scenes": num_scenes})
    suffix = suffix_of(recipe, split, num_scenes)
    split = split or settings.split
    pixel = pixel_model(recipe, run)
    models = (run.model,) if pixel is None else (run.model, pixel)
    exported = _exported(run, models)
    made_from = digest(exported, settings.model_dump(mode="json"), split)
    if run.is_done(f"evaluate{suffix}", made_from, *run.evaluation_files(suffix)):
        logger.info(f"{run.model} is measured already")
        return None
    scenes = choose_scenes(recipe.edits, settings.num_scenes, split, settings.given)
    translators = [Translator.load(model) for model in models]
    warn_of_idle_gpu(translators[0].providers)
    teacher = open_teacher(recipe.teacher)
    # The progress bar counts the images that go through the student.
    num_edited = sum(scene.replace(**edit) != scene for edit in recipe.edits.values() for scene in scenes)
    num_no_op = len(recipe.edits) * min(settings.num_no_op_scenes, len(scenes))
    with tqdm(total=num_edited + num_no_op, desc="measuring", unit="image", leave=False) as bar:

        def translate(images: "Images", edit: str) -> "Images":
            bar.update(len(images))
            return translators[0](images, edit)

        rows = evaluate_edits(
            translate,
            recipe.edits,
            scenes,
            lambda images: _through_vae(teacher, images),
            reader or FactorReader.load(),
            settings.num_no_op_scenes,
            _MEASURE_AT,
            others=dict(zip(METHODS[1:], translators[1:], strict=False)),
        )
    means = average(rows)
    evaluation: Evaluation = {
        "split": split,
        "num_scenes": settings.num_scenes,
        "given": settings.given,
        "edits": [cast("Metrics", asdict(row)) for row in rows],
        "means": [cast("Metrics", asdict(row)) for row in means],
        "files": [_facts(method, model, scenes[0]) for method, model in zip(METHODS, models, strict=False)],
    }
    grids = [
        png_bytes(grid_image(translator, recipe.edits, scenes[:_NUM_GRID_ROWS], _MEASURE_AT))
        for translator in translators
    ]
    return Measured(evaluation, tuple(grids), suffix, models, exported, made_from)


def _exported(run: RunFolder, models: Sequence[Path]) -> str:
    """The fingerprint of the exports of model files: of the student's, or of both."""
    student = run.fingerprint_of("export")
    others = [run.fingerprint_of(f"export {model.name}") for model in models[1:]]
    return digest(student, *others) if others else student


def _facts(method: str, model: Path, scene: "WorldScene") -> FileFacts:
    """Weigh a model file, and time it on one thread, on a scene of its training's size."""
    from inference.runtime import Translator
    from synth.world.scenes import render

    files = [path for path in (model, model.with_name(f"{model.name}.data")) if path.exists()]
    translator = Translator.load(model, ["cpu"], num_threads=1)
    image, edit = render(scene, translator.metadata["training_size"]).image, next(iter(translator.edits))
    seconds = []
    for _ in range(1 + _NUM_TIMED):  # the first call prepares memory
        started = time.perf_counter()
        translator(image, edit)
        seconds.append(time.perf_counter() - started)
    return {
        "method": method,
        "file": model.name,
        "mebibytes": sum(path.stat().st_size for path in files) / 2**20,
        "milliseconds": 1000 * min(seconds[1:]),
    }


def keep(run: RunFolder, measured: Measured) -> None:
    """Write what was measured into the run folder: evaluation.json and grid.png, or those of other scenes.

    On the recipe's own scenes, the means are also written into the model file's metadata. Another split, and another
    number of scenes, get their own files, such as evaluation-shifted.json and grid-test-5.png: they decide nothing.

    Raises:
        FolderInUseError: if another command is at work on the folder.
        RunError: if the model file is another one by now.
    """
    from inference.export.formats import record_metrics

    evaluation, suffix = measured.evaluation, measured.suffix
    file, grid = run.evaluation_files(suffix)
    with exclusive_folder(run.path):
        gone = not all(model.exists() for model in measured.models)
        if gone or _exported(run, measured.models) != measured.exported:
            raise RunError(f"{run.model} was replaced while it was measured: measure it again")
        for path, content in zip((grid, run.pixel_grid(suffix)), measured.grids, strict=False):
            write_bytes(path, content)
        write_text(file, json.dumps(evaluation, indent=2) + "\n")
        if not suffix:
            for model in measured.models:
                record_metrics(model, {"split": evaluation["split"], "means": evaluation["means"]})
        run.mark_done(f"evaluate{suffix}", measured.made_from)


def compare_with_zero_shot(recipe: Recipe, out: Path, num_scenes: int) -> str:
    """Compare the run's model file with zero-shot methods, image by image; write the study into `zero-shot/`.

    Args:
        recipe: the run's recipe.
        out: the exported run's folder.
        num_scenes: how many unseen scenes per edit, of the recipe's split.

    Returns:
        The finding.

    Raises:
        RunError: if there is no model file yet, or `zero-shot/` holds the study of another one.
        RecipeError: if the drawn world does not have the recipe's edits.
    """
    from distill.evaluation.counterfactuals import choose_scenes
    from distill.studies.student import Distilled
    from flows.evaluation.studies import run_study
    from inference.runtime import Translator

    run = RunFolder(out)
    settings = recipe.evaluation
    if not run.model.exists():
        raise RunError(f"{out} has no model file yet: `distillery export {out}` writes one")
    choose_scenes(recipe.edits, 1, settings.split, settings.given)  # refuses unknown edits early
    measured = settings.model_copy(update={"num_scenes": num_scenes})
    study = Distilled(Translator.load(run.model), run.fingerprint_of("export"), recipe.edits, measured)
    return run_study(study, open_teacher(recipe.teacher), out / "zero-shot")


def _through_vae(teacher: "Teacher", images: "Images") -> "Images":
    """Encode and decode images, uint8 (N, H, W, 3): the best that the teacher's VAE can do."""
    import torch

    from synth.pixels import to_float, to_uint8

    return to_uint8(teacher.decode(teacher.encode(to_float(torch.from_numpy(images)).to(teacher.device))))
