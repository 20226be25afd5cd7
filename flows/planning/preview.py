"""Preview a recipe before a training: edit a dozen images zero-shot, over a small grid of settings, on one page.

Teacher, texts and images are those of the training; only the student is missing. A student will hardly learn an edit
that no zero-shot setting makes, although it averages over many images and so avoids some artifacts.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from distill.settings import EditSettings
from flows.config.schema import Recipe
from flows.evaluation.zero_shot import find_images
from flows.planning.dry_runs import warm_up
from flows.planning.estimates import PASSES_OF_AN_EDIT, Rates, cost_of, flops_of_recipe, run_costs
from flows.planning.preflight import check_hours, preflight, preflight_lines, require
from flows.reports.preview_cells import Cell
from flows.reports.preview_page import preview_page
from flows.run.folder import RunFolder
from flows.shared_teacher import open_teacher
from synth.errors import FileError, ImageInputError, RecipeError

if TYPE_CHECKING:
    from distill.evaluation.examples import Example
    from synth.teacher.teacher import Teacher

NUM_IMAGES = 12
_BATCH_SIZE = 6  # images edited together; the network sees four latents of each
_GPU_DOLLARS_PER_HOUR = 2.0  # the default price; docs/operations.md assumes the same


@dataclass(frozen=True)
class Grid:
    """The settings to try."""

    guidance_scales: tuple[float, ...]
    iterations: tuple[int, ...]
    """The images are read after each of these numbers of iterations, in one optimisation."""
    learning_rate: float

    @classmethod
    def of(cls, teacher: "Teacher", guidance_scales: Sequence[float] = (), iterations: Sequence[int] = ()) -> "Grid":
        """Choose the grid for a teacher and its device.

        On a GPU: half, once and twice the teacher's guidance, and up to the published 200 iterations. On a CPU: a
        fifth of the iterations, with twice the learning rate and guidance to make up for them.

        Args:
            teacher: whose defaults apply.
            guidance_scales: replace the chosen ones.
            iterations: replace the chosen ones.
        """
        guidance_scale = teacher.defaults.edit_guidance_scale
        learning_rate = teacher.defaults.edit_learning_rate
        is_cpu = teacher.device.type == "cpu"
        factors = (1.0, 2.0, 4.0) if is_cpu else (0.5, 1.0, 2.0)
        return cls(
            tuple(guidance_scales) or tuple(max(1.0, factor * guidance_scale) for factor in factors),
            tuple(sorted(iterations)) or ((20, 40) if is_cpu else (50, 100, 200)),
            2 * learning_rate if is_cpu else learning_rate,
        )


@dataclass(frozen=True)
class Preview:
    """The outcome of a preview."""

    go: bool
    verdict: str
    """One line that starts with "go" or "no-go"."""
    costs: list[str]
    """What the full run takes, here and on named devices, in lines for people."""


def preview(
    recipe: Recipe,
    out: Path,
    images: Path | None = None,
    guidance_scales: Sequence[float] = (),
    iterations: Sequence[int] = (),
    num_examples: int = NUM_IMAGES,
    whole_image: bool = False,
    dollars_per_hour: float | None = None,
) -> Preview:
    """Edit a dozen images zero-shot over a grid of settings, and write the page `out`.

    Args:
        recipe: its edits are tried, on its scenes or on photographs.
        out: the HTML file to write.
        images: a folder of photographs, for a recipe of photographs.
        guidance_scales: to try (default: some around the teacher's own).
        iterations: to show (default: by the device, see `Grid.of`).
        num_examples: images in total, shared among the edits; each edit gets at least one.
        whole_image: the edits are meant to change the whole image, as weather and styles do.
        dollars_per_hour: the price of this device (default: 2 for a GPU, none for a CPU).

    Raises:
        ImageInputError: for a file that is not an image, or a folder without images.
        FileError: if there is another file at `out`, or it cannot be written.
        RecipeError: for photographs with a recipe that paints, or a recipe of photographs without them.
        DistilleryError: for what the preflight finds, such as a teacher that cannot score or reads no prompt so long.
    """
    from inference.results import Results, Wanted
    from synth.dataset.generate import completed

    results, page = Results(out.parent), Wanted(None, f"preview page {out.name}")
    if results.choose(page, Path(out.stem), "", out.suffix) != out:
        raise FileError(f"{out} is there, and no preview wrote it: name another file with --out")
    if recipe.scenes is None and images is None:
        raise RecipeError(f"{recipe.name} is a recipe of photographs: name a folder of photographs with --images")
    if recipe.scenes is not None and images is not None:
        raise RecipeError(
            f"{recipe.name} paints its images and cannot caption photographs: leave out --images, or let "
            "`distillery init NAME --photos` write a recipe of photographs"
        )
    checks = preflight(recipe, RunFolder.default_path(recipe))
    require(checks)
    teacher = open_teacher(recipe.teacher)
    grid = Grid.of(teacher, guidance_scales, iterations)
    if recipe.scenes is not None:
        recipe = recipe.model_copy(update={"scenes": completed(recipe.scenes, teacher)})
    images_per_edit = max(1, num_examples // len(recipe.edits))

    # Get the inputs. Painting is timed, for the estimate.
    if images is None:
        num_painted = images_per_edit * len(recipe.edits)
        warm_up(teacher, recipe.to_paint(), num_painted)
        started = time.perf_counter()
        examples = _painted(teacher, recipe, images_per_edit)
        seconds_per_image = (time.perf_counter() - started) / num_painted
        num_images = recipe.to_paint().count
    else:
        paths = find_images([images])
        examples = _photographs(teacher, recipe, paths, images_per_edit)
        seconds_per_image = 0.0
        num_images = len(paths)

    # Edit them at every setting. This is timed, too.
    started = time.perf_counter()
    cells = list(_cells(teacher, examples, grid, whole_image))
    passes = len(examples) * len(grid.guidance_scales) * max(grid.iterations) * PASSES_OF_AN_EDIT
    seconds_per_pass = (time.perf_counter() - started) / passes

    if dollars_per_hour is None and teacher.device.type == "cuda":
        dollars_per_hour = _GPU_DOLLARS_PER_HOUR
    flops = flops_of_recipe(recipe, examples[0].image.shape[0])
    rates = Rates(seconds_per_image, seconds_per_pass, dollars_per_hour, flops.student / flops.teacher)
    go, verdict = judge(cells)
    cost = cost_of(recipe, rates)
    checks.append(check_hours(recipe, {"painting": cost.painting_seconds, "training": cost.training_seconds}))
    costs = [*run_costs(teacher, recipe, rates, flops, examples, num_images), *preflight_lines(checks)]
    with results.put(page, out) as part:
        part.write_bytes(preview_page(recipe, examples, cells, grid.learning_rate, verdict, costs))
    return Preview(go, verdict, costs)


def judge(cells: "Sequence[Cell]") -> tuple[bool, str]:
    """Decide whether each edit has a setting without a diagnostic against it.

    Returns:
        Whether it is a go, and the verdict in one line.
    """
    bad, good = [], []
    for edit in dict.fromkeys(cell.edit for cell in cells):
        own_cells = [cell for cell in cells if cell.edit == edit]
        clean = [cell for cell in own_cells if not cell.diagnostics]
        if clean:
            # The middle one is farthest from both ends, where an edit fails.
            middle = clean[len(clean) // 2]
            good.append(f"{edit} (guidance {middle.guidance_scale:g}, {middle.iterations} iterations)")
            continue
        # Name the most frequent fault, with its remedy.
        found = [diagnostic for cell in own_cells for diagnostic in cell.diagnostics]
        counts = Counter(diagnostic.name for diagnostic in found)
        worst = max(found, key=lambda diagnostic: counts[diagnostic.name])
        bad.append(f"{edit}: {worst.name} ({worst.measured}); {worst.advice}")
    if bad:
        return False, f"no-go: {'. '.join(bad)}"
    return True, f"go, if you like the images: no diagnostic speaks against {', '.join(good)}"


def _painted(teacher: "Teacher", recipe: Recipe, images_per_edit: int) -> "list[Example]":
    """Paint the recipe's first scenes, `images_per_edit` for each edit, with their prompts as sources."""
    import numpy as np

    from distill.evaluation.examples import Example
    from synth.dataset.generate import paint
    from synth.dataset.prompts import Template

    settings = recipe.to_paint()
    template = Template(settings)
    edits = [edit for edit in recipe.edits for _ in range(images_per_edit)]
    scenes = [template.scene(index) for index in range(len(edits))]
    images: list[Any] = []  # a PIL image, or None where the safety checker refused one
    teacher.check_prompts([scene.prompt for scene in scenes])
    with tqdm(total=len(scenes), desc="painting", unit="image") as bar:
        for start in range(0, len(scenes), settings.batch_size):
            # `paint` pads a short batch to the full batch size, which would distort the timing.
            batch = scenes[start : start + settings.batch_size]
            batch_settings = settings.model_copy(update={"batch_size": len(batch)})
            images += paint(teacher, batch_settings, batch)
            bar.update(len(batch))
    examples = [
        Example(edit, np.asarray(image), scene.prompt, template.edited(scene.slots, recipe.edits[edit]))
        for edit, scene, image in zip(edits, scenes, images, strict=True)
        if image is not None
    ]
    if {example.edit for example in examples} != set(recipe.edits):
        raise ImageInputError("the teacher's safety checker refused the images: reword scenes.template")
    return examples


def _photographs(teacher: "Teacher", recipe: Recipe, paths: Sequence[Path], images_per_edit: int) -> "list[Example]":
    """Read photographs as `import-photos` does, and share them among the edits."""
    import numpy as np

    from distill.evaluation.examples import Example
    from synth.dataset.photographs import Rejected, prepared
    from synth.dataset.sources.opening import captions_of
    from synth.settings import PhotoSettings

    texts = recipe.texts()
    settings = PhotoSettings(image_size=teacher.defaults.image_size)
    captions = captions_of(paths)
    examples = []
    edits = [edit for edit in recipe.edits for _ in range(min(images_per_edit, len(paths)))]
    for number, edit in enumerate(edits):
        path = paths[number % len(paths)]
        try:
            image = prepared(path.read_bytes(), settings)
        except (Rejected, OSError) as error:
            raise ImageInputError(f"{path} cannot be used as an image: {error}") from None
        caption = captions.get(path, "")
        target = texts.target(caption, {}, recipe.edits[edit])
        examples.append(Example(edit, np.asarray(image), texts.source(caption), target))
    return examples


def _cells(teacher: "Teacher", examples: "Sequence[Example]", grid: Grid, whole_image: bool) -> Iterator[Cell]:
    """Make every edit at every setting of the grid."""
    import numpy as np
    from PIL import Image

    from distill.evaluation.diagnostics import diagnose, measure_change
    from distill.studies.study import trajectory

    batches = [examples[start : start + _BATCH_SIZE] for start in range(0, len(examples), _BATCH_SIZE)]
    total = len(grid.guidance_scales) * len(examples) * max(grid.iterations)
    with tqdm(total=total, desc="editing", unit="iteration") as bar:
        for guidance_scale in grid.guidance_scales:
            settings = EditSettings(
                guidance_scale=guidance_scale, iterations=max(grid.iterations), learning_rate=grid.learning_rate
            )
            # One optimisation of all examples, whose images are read after each number of iterations.
            edited: dict[int, list[Any]] = {iterations: [] for iterations in grid.iterations}
            for batch in batches:
                for iterations, images in trajectory(teacher, batch, settings, grid.iterations).items():
                    edited[iterations] += images
                bar.update(len(batch) * settings.iterations)

            # A cell for each edit, from the images of its own examples.
            for iterations, images in edited.items():
                for edit in dict.fromkeys(example.edit for example in examples):
                    indices = [index for index, example in enumerate(examples) if example.edit == edit]
                    before = np.stack([examples[index].image for index in indices])
                    after = np.stack([images[index] for index in indices])
                    metrics = measure_change(before, after)
                    pil_images = [Image.fromarray(image) for image in after]
                    yield Cell(edit, guidance_scale, iterations, pil_images, metrics, diagnose(metrics, whole_image))
