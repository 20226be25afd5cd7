"""A look before anything long: a dozen images edited without training, over a small grid of settings, on one page.

The teacher, the texts and the images are those of the training to come; only the student is missing. What a
zero-shot edit cannot do at any setting, a training on the same texts will hardly learn, though a student averages
over many images and so is the calmer of the two.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from distill.settings import EditSettings
from flows.config.schema import Recipe
from flows.evaluation.zero_shot import find_images
from flows.planning.estimates import PASSES_OF_AN_EDIT, Rates, run_costs
from flows.reports.preview_cells import Cell
from flows.reports.preview_page import preview_page
from flows.shared_teacher import open_teacher
from synth.errors import ImageInputError, RecipeError
from synth.files import write_bytes

if TYPE_CHECKING:
    from distill.examples import Example
    from synth.teacher.teacher import Teacher

NUM_IMAGES = 12
_BATCH = 6  # images that are edited together; the network sees four latents of each
_GPU_DOLLARS = 2.0  # an hour, for a GPU whose price nobody said; docs/operations.md assumes the same


@dataclass(frozen=True)
class Grid:
    """Which settings are tried."""

    guidance_scales: tuple[float, ...]
    iterations: tuple[int, ...]
    """Read off one optimisation each."""
    learning_rate: float

    @classmethod
    def of(cls, teacher: "Teacher", guidance_scales: Sequence[float] = (), iterations: Sequence[int] = ()) -> "Grid":
        """Half, once and twice the guidance that suits the teacher, and the published 200 iterations and fewer; on a
        CPU a fifth of them, and to make up for it twice the rate and twice the guidance."""
        usual, rate = teacher.defaults.edit_guidance_scale, teacher.defaults.edit_learning_rate
        slow = teacher.device.type == "cpu"
        factors = (1.0, 2.0, 4.0) if slow else (0.5, 1.0, 2.0)
        return cls(
            tuple(guidance_scales) or tuple(max(1.0, factor * usual) for factor in factors),
            tuple(sorted(iterations)) or ((20, 40) if slow else (50, 100, 200)),
            2 * rate if slow else rate,
        )


@dataclass(frozen=True)
class Preview:
    """What came of it."""

    go: bool
    verdict: str
    """One line, which begins with go or no-go."""
    costs: list[str]
    """Lines: what the full run takes, here and on named devices."""


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
        recipe: whose edits are tried, on its scenes or on photographs.
        out: the HTML file.
        images: for a recipe of photographs, a folder of them.
        guidance_scales: to try; by default some around the teacher's own.
        iterations: to look at; fewer on a CPU by default.
        num_examples: how many images share the edits; each edit gets one at least.
        whole_image: the edits are meant to change all of an image, as weather and styles do.
        dollars_per_hour: of this device.

    Raises:
        ImageInputError: for a file that is no image, or a folder without any.
        RecipeError: for photographs with a recipe that paints, or none with a recipe of photographs.
        TeacherError: for a teacher that cannot score, or cannot read a prompt to its end.
    """
    from synth.dataset.generate import completed

    if recipe.scenes is None and images is None:
        raise RecipeError(f"{recipe.name} is a recipe of photographs: name a folder of some with --images")
    if recipe.scenes is not None and images is not None:
        raise RecipeError(
            f"{recipe.name} paints its images, and nothing tells what photographs show: leave out --images, or let "
            "`distillery init NAME --photos` write a recipe of photographs"
        )
    teacher = open_teacher(recipe.teacher)
    teacher.require_scorer()
    grid = Grid.of(teacher, guidance_scales, iterations)
    if recipe.scenes is not None:
        recipe = recipe.model_copy(update={"scenes": completed(recipe.scenes, teacher)})
    rounds, started = max(1, num_examples // len(recipe.edits)), time.perf_counter()
    if images is None:
        examples, num_images = _painted(teacher, recipe, rounds), recipe.to_paint().count
    else:
        paths = find_images([images])
        examples, num_images = _photographs(teacher, recipe, paths, rounds), len(paths)
    painted_seconds = 0.0 if images is not None else (time.perf_counter() - started) / len(examples)
    started = time.perf_counter()
    cells = list(_cells(teacher, examples, grid, whole_image))
    passes = len(examples) * len(grid.guidance_scales) * max(grid.iterations) * PASSES_OF_AN_EDIT
    if dollars_per_hour is None and teacher.device.type == "cuda":
        dollars_per_hour = _GPU_DOLLARS
    rates = Rates(painted_seconds, (time.perf_counter() - started) / passes, dollars_per_hour)
    go, verdict = judge(cells)
    costs = run_costs(teacher, recipe, rates, examples, num_images)
    write_bytes(out, preview_page(recipe, examples, cells, grid.learning_rate, verdict, costs))
    return Preview(go, verdict, costs)


def judge(cells: "Sequence[Cell]") -> tuple[bool, str]:
    """Whether each edit has a setting without a sign against it, in one line."""
    stuck, good = [], []
    for edit in dict.fromkeys(cell.edit for cell in cells):
        own = [cell for cell in cells if cell.edit == edit]
        clean = [cell for cell in own if not cell.diagnostics]
        if clean:
            best = clean[len(clean) // 2]
            good.append(f"{edit} (guidance {best.guidance_scale:g}, {best.iterations} iterations)")
            continue
        signs = [sign for cell in own for sign in cell.diagnostics]
        worst = max(signs, key=lambda sign: sum(other.name == sign.name for other in signs))
        stuck.append(f"{edit}: {worst.name} ({worst.measured}); {worst.advice}")
    if stuck:
        return False, f"no-go: {'. '.join(stuck)}"
    return True, f"go, if the images please you: nothing speaks against {', '.join(good)}"


def _painted(teacher: "Teacher", recipe: Recipe, rounds: int) -> "list[Example]":
    """The recipe's first scenes, `rounds` for each edit, with their own words as sources."""
    import numpy as np

    from distill.examples import Example
    from synth.dataset.generate import paint
    from synth.dataset.prompts import Template

    settings = recipe.to_paint()
    template = Template(settings)
    edits = [edit for edit in recipe.edits for _ in range(rounds)]
    scenes = [template.scene(index) for index in range(len(edits))]
    pictures = []
    teacher.check_prompts([scene.prompt for scene in scenes])
    with tqdm(total=len(scenes), desc="painting", unit="image") as bar:
        for start in range(0, len(scenes), settings.batch_size):
            # A short batch is padded to its full size: `batch_size` images are paid for.
            batch = scenes[start : start + settings.batch_size]
            small = settings.model_copy(update={"batch_size": len(batch)})
            pictures += paint(teacher, small, batch)
            bar.update(len(batch))
    found = [
        Example(edit, np.asarray(picture), scene.prompt, template.edited(scene.slots, recipe.edits[edit]))
        for edit, scene, picture in zip(edits, scenes, pictures, strict=True)
        if picture is not None
    ]
    if {example.edit for example in found} != set(recipe.edits):
        raise ImageInputError("the teacher's safety checker blacked the images out: reword scenes.template")
    return found


def _photographs(teacher: "Teacher", recipe: Recipe, paths: Sequence[Path], rounds: int) -> "list[Example]":
    """Photographs as `import-photos` would make them, shared among the edits."""
    import numpy as np

    from distill.examples import Example
    from synth.dataset.photo_sources import captions_of
    from synth.dataset.photographs import Rejected, prepared
    from synth.settings import PhotoSettings

    texts, settings = recipe.texts(), PhotoSettings(image_size=teacher.defaults.image_size)
    captions = captions_of(paths[0].parent, settings.caption_column)
    examples = []
    for number, edit in enumerate(edit for edit in recipe.edits for _ in range(min(rounds, len(paths)))):
        path = paths[number % len(paths)]
        try:
            picture = prepared(path.read_bytes(), settings)
        except (Rejected, OSError) as error:
            raise ImageInputError(f"{path} cannot be used as an image: {error}") from None
        caption = captions.get(path.name, "")
        target = texts.target(caption, {}, recipe.edits[edit])
        examples.append(Example(edit, np.asarray(picture), texts.source(caption), target))
    return examples


def _cells(teacher: "Teacher", examples: "Sequence[Example]", grid: Grid, whole_image: bool) -> Iterator[Cell]:
    """Every edit at every setting."""
    import numpy as np
    from PIL import Image

    from distill.diagnostics import diagnose, measure_change
    from distill.studies.study import trajectory

    batches = [examples[start : start + _BATCH] for start in range(0, len(examples), _BATCH)]
    total = len(grid.guidance_scales) * len(examples) * max(grid.iterations)
    with tqdm(total=total, desc="editing", unit="iteration") as bar:
        for guidance_scale in grid.guidance_scales:
            settings = EditSettings(
                guidance_scale=guidance_scale, iterations=max(grid.iterations), learning_rate=grid.learning_rate
            )
            seen: dict[int, list[Any]] = {at: [] for at in grid.iterations}
            for batch in batches:
                for at, pictures in trajectory(teacher, batch, settings, grid.iterations).items():
                    seen[at] += pictures
                bar.update(len(batch) * settings.iterations)
            for at, pictures in seen.items():
                for edit in dict.fromkeys(example.edit for example in examples):
                    places = [place for place, example in enumerate(examples) if example.edit == edit]
                    after = np.stack([pictures[place] for place in places])
                    figures = measure_change(np.stack([examples[place].image for place in places]), after)
                    shown = [Image.fromarray(picture) for picture in after]
                    yield Cell(edit, guidance_scale, at, shown, figures, diagnose(figures, whole_image))
