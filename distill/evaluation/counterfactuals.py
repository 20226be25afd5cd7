"""The counterfactual benchmark: edits are measured against the drawn world's true answers.

Methods are callables, images in and images out, so that a student, an exported file and a zero-shot edit are all
measured by the same lines. No torch here.

For each edit and method, as means over scenes:

    PSNR   10 log10(255^2 / MSE), at most 60 dB (`distill.evaluation.metrics`)
    SSIM   Wang et al. 2004; its map averaged over the pixels of a region
    sharp  inside: the mean absolute Laplacian over the true counterfactual's; blur is below 1
    region `all`; `inside` the union of the edited object's silhouettes before and after; `outside` it
    right  share of scenes in which the strict factor reader finds every value that the edit asks for

Two baselines stand beside them: `do nothing` returns the input; `vae ceiling` is the true counterfactual sent through
the teacher's VAE, which nothing that only decodes a latent can be expected to pass. Scenes that already show what the
edit asks for are scored separately, as `no-op`: there the input itself is the truth. `held-out` repeats those of the
`edited` scenes that show, before or after, a combination of factors that the teacher never saw.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import compress
from typing import Protocol

import numpy as np
from PIL import Image

from distill.evaluation.grids import GAP, GridRow, GridStyle, labelled_grid
from distill.evaluation.metrics import Images, Mask, psnr, sharpness, ssim_map
from synth.errors import RecipeError
from synth.world.scenes import FACTORS, MASK_OF, Drawing, WorldScene, render, sample_scene

Translate = Callable[[Images, str], Images]
"""uint8 (N, H, W, 3) and an edit's name -> the edited images, of the same shape."""
Roundtrip = Callable[[Images], Images]
"""Images through a VAE."""

DO_NOTHING = "do nothing"
VAE_CEILING = "vae ceiling"
_CHUNK = 25  # scenes held in memory at once


class Reader(Protocol):
    """Reads what images show."""

    def read(self, images: Images) -> dict[str, list[str]]:
        """uint8 (N, H, W, 3) -> for each factor a value an image, "?" where it recognizes none."""


@dataclass(frozen=True)
class EditMetrics:
    """One row of the table: an edit, by a method, on one kind of scenes. None: no scene has that region."""

    edit: str
    method: str
    scenes: str
    """`edited`, `held-out` (some of these) or `no-op`."""
    num_scenes: int
    psnr_all: float | None
    psnr_inside: float | None
    psnr_outside: float | None
    ssim_all: float | None
    ssim_inside: float | None
    ssim_outside: float | None
    sharpness_inside: float | None
    psnr_outside_to_input: float | None
    right: float | None


_METRICS = [item.name for item in fields(EditMetrics)][4:]


def choose_scenes(
    edits: Mapping[str, Mapping[str, str]], num: int, split: str, given: Mapping[str, str] | None = None
) -> list[WorldScene]:
    """Choose the first `num` scenes of a split that have every factor that the edits name.

    Args:
        edits: name -> the factors that it sets.
        num: how many scenes.
        split: of the drawn world.
        given: factors that all scenes show before the edit.

    Raises:
        RecipeError: if no kind of scene has them all, or a value is unknown: the drawn world cannot judge such edits.
    """
    given = given or {}
    edited = {factor for factors in edits.values() for factor in factors}
    wanted = {*edited, *given}
    kinds = [kind for kind, known in FACTORS.items() if wanted <= set(known)]
    if not kinds or not edited <= set(MASK_OF):
        raise RecipeError(
            f"the drawn world cannot judge edits of {', '.join(sorted(wanted))}: it masks {', '.join(MASK_OF)}, and "
            "one kind of scene must have all that is edited; leave the evaluation out"
        )
    # The drawing would refuse an unknown value too, but without naming the edit.
    for name, factors in {**edits, "evaluation.given": given}.items():
        for factor, value in factors.items():
            if value not in FACTORS[kinds[0]][factor]:
                raise RecipeError(
                    f"the drawn world cannot judge the edit {name!r}: no {factor} is {value!r}; "
                    f"it knows {', '.join(FACTORS[kinds[0]][factor])}"
                )
    scenes: list[WorldScene] = []
    index = 0
    while len(scenes) < num:
        scene = sample_scene(split, index, kinds[0])
        if wanted <= set(scene.factors):  # only scenes outdoors have a weather
            scenes.append(scene.replace(**given))
        index += 1
    return scenes


def evaluate_edits(
    translate: Translate,
    edits: Mapping[str, Mapping[str, str]],
    scenes: Sequence[WorldScene],
    vae_roundtrip: Roundtrip,
    reader: Reader,
    num_no_op_scenes: int = 25,
    size: int = 128,
    method: str = "student",
    others: Mapping[str, Translate] | None = None,
) -> list[EditMetrics]:
    """Measure `translate` beside the two baselines, and other methods on the same images.

    Args:
        translate: uint8 (N, size, size, 3) and an edit's name -> the edited images, of the same shape.
        edits: name -> the factors that it sets, as in {"color": "red", "material": "leather"}.
        scenes: each must have all the factors; see `choose_scenes`.
        vae_roundtrip: images through the teacher's encoder and decoder.
        reader: the strict factor reader.
        num_no_op_scenes: how many of `scenes` are also shown to the student as they look after the edit.
        size: side of the images in pixels; the miniature's reader knows 128 alone.
        method: the name of the rows of `translate`.
        others: further methods, by the names of their rows.

    Returns:
        For each edit a row for each method, "do nothing" and "vae ceiling" on edited scenes, then the same on those
        of them that are held out, if there are any, and on no-op scenes.
    """
    rows = []
    methods = {method: translate, **(others or {})}
    for edit, factors in edits.items():
        after = [scene.replace(**factors) for scene in scenes]
        changed = [(old, new) for old, new in zip(scenes, after, strict=True) if old != new]
        unchanged = [(new, new) for new in after[:num_no_op_scenes]]
        for kind, pairs in (("edited", changed), ("no-op", unchanged)):
            tables: dict[str, list[dict[str, float]]] = {name: [] for name in (*methods, DO_NOTHING, VAE_CEILING)}
            # In chunks: images of all scenes by all methods would not fit into memory.
            for start in range(0, len(pairs), _CHUNK):
                inputs, truths, masks = _draw(pairs[start : start + _CHUNK], list(factors), size)
                results = {
                    **{name: by(inputs, edit) for name, by in methods.items()},
                    DO_NOTHING: inputs,
                    VAE_CEILING: vae_roundtrip(truths),
                }
                for name, images in results.items():
                    tables[name] += measure_edits(images, inputs, truths, masks, factors, reader)
            rows += [_mean_row(edit, name, kind, table) for name, table in tables.items()]
            # Held-out scenes are measured already: their rows are a selection.
            unseen = [old.held_out or new.held_out for old, new in pairs]
            if kind == "edited" and any(unseen):
                rows += [
                    _mean_row(edit, name, "held-out", list(compress(table, unseen))) for name, table in tables.items()
                ]
    return rows


def average(rows: Sequence[EditMetrics]) -> list[EditMetrics]:
    """Average over edits, for each method and kind of scenes; each edit weighs the same."""
    means = []
    for kind, method in dict.fromkeys((row.scenes, row.method) for row in rows):
        group = [row for row in rows if (row.scenes, row.method) == (kind, method)]
        values: dict[str, float | None] = {}
        for metric in _METRICS:
            known = [value for row in group if (value := getattr(row, metric)) is not None]
            values[metric] = float(np.mean(known)) if known else None
        means.append(EditMetrics("mean over edits", method, kind, sum(row.num_scenes for row in group), **values))
    return means


def measure_edits(
    images: Images, inputs: Images, truths: Images, masks: Sequence[Mask], factors: Mapping[str, str], reader: Reader
) -> Iterator[dict[str, float]]:
    """Measure each edited image; a metric of a region without pixels is left out.

    Args:
        images: uint8 (N, H, W, 3), edited.
        inputs: the same shape, before the edit.
        truths: the same shape, the true counterfactuals.
        masks: N of (H, W), true inside.
        factors: what the edit sets.
        reader: finds out whether the image shows it.
    """
    answers = reader.read(images)
    for index, (image, before, truth, mask) in enumerate(zip(images, inputs, truths, masks, strict=True)):
        similarity = ssim_map(image, truth)
        metrics = {
            "psnr_all": psnr(image, truth),
            "ssim_all": float(similarity.mean()),
            "right": float(all(answers[factor][index] == value for factor, value in factors.items())),
        }
        for region, pixels in (("inside", mask), ("outside", ~mask)):
            if pixels.any():
                metrics[f"psnr_{region}"] = psnr(image, truth, pixels)
                metrics[f"ssim_{region}"] = float(similarity[pixels].mean())
        if mask.any():
            metrics["sharpness_inside"] = sharpness(image, truth, mask)
        if not mask.all():
            metrics["psnr_outside_to_input"] = psnr(image, before, ~mask)
        yield metrics


def edited_mask(before: Drawing, after: Drawing, factors: Iterable[str]) -> Mask:
    """Return the union of the silhouettes, before and after, of what these factors change: bool (size, size)."""
    names = {MASK_OF[factor] for factor in factors}
    mask: Mask = np.any([drawing.masks[name] for drawing in (before, after) for name in names], axis=0)
    return mask


def grid_image(
    translate: Translate,
    edits: Mapping[str, Mapping[str, str]],
    scenes: Sequence[WorldScene],
    size: int = 128,
) -> Image.Image:
    """Draw for each scene the input, and for each edit the translated image above the true one.

    Args:
        translate: uint8 (N, size, size, 3) and an edit's name -> the edited images, of the same shape.
        edits: name -> the factors that it sets.
        scenes: two rows each.
        size: side of the images in pixels.
    """
    inputs = np.stack([render(scene, size).image for scene in scenes])  # (N, size, size, 3)
    translated = [translate(inputs, edit) for edit in edits]
    truths = [[render(scene.replace(**factors), size).image for scene in scenes] for factors in edits.values()]
    rows = []
    for place, image in enumerate(inputs):
        upper = [image, *(images[place] for images in translated)]
        lower = [Image.fromarray(images[place]) for images in truths]
        rows.append(GridRow("translated", [Image.fromarray(pixels) for pixels in upper], gap=0))
        rows.append(GridRow("truth", [None, *lower], gap=2 * GAP))
    style = GridStyle(
        cell=size, names_width=84, caption_height=0, font_size=13, titles_top=4, names_top=size // 2 - 8
    )
    return labelled_grid(["input", *edits], rows, style)


def _draw(
    pairs: Sequence[tuple[WorldScene, WorldScene]], factors: Sequence[str], size: int
) -> tuple[Images, Images, list[Mask]]:
    """Inputs and truths, uint8 (N, size, size, 3), and N masks of where the edited object is before or after."""
    inputs, truths, masks = [], [], []
    for before, after in pairs:
        old, new = render(before, size), render(after, size)
        masks.append(edited_mask(old, new, factors))
        inputs.append(old.image)
        truths.append(new.image)
    return np.stack(inputs), np.stack(truths), masks


def _mean_row(edit: str, method: str, kind: str, table: Sequence[Mapping[str, float]]) -> EditMetrics:
    return EditMetrics(edit, method, kind, len(table), **{metric: _mean(table, metric) for metric in _METRICS})


def _mean(table: Sequence[Mapping[str, float]], metric: str) -> float | None:
    known = [row[metric] for row in table if metric in row]
    return float(np.mean(known)) if known else None
