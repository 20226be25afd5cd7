"""The counterfactual benchmark: in the drawn world every edit has a true answer, so an edit is measured against it.

Methods come as callables, images in and images out, so that a student, an exported file and a zero-shot edit are
all measured by the same lines. No torch here.

What is measured, per edit and method, as means over scenes:

    PSNR   10 log10(255^2 / MSE), MSE over the pixels of a region and the three channels; at most 60 dB, so that an
           exact match does not make a mean infinite
    SSIM   Wang et al. 2004 with Gaussian windows (sigma 1.5), its map averaged over the pixels of a region; a window
           at a region's border sees both sides
    sharp  inside: the mean absolute Laplacian of the grey values, over the true counterfactual's; blur is below 1
    region `all`; `inside` the union of the edited object's silhouettes before and after; `outside` it
    right  share of scenes in which the strict factor reader finds every value that the edit asks for

beside two baselines: `do nothing` returns the input, `vae ceiling` is the true counterfactual sent through the
teacher's VAE, which nothing that decodes a latent alone can be expected to pass. Scenes that already show what the
edit asks for are scored apart, as `no-op`: there the input itself is the truth. Some of the `edited` scenes are
scored once more, as `held-out`: they show, before or after, a combination of factors that the teacher never saw.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import compress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from synth.errors import RecipeError
from synth.world.scenes import FACTORS, MASK_OF, WorldScene, render, sample_scene

Images = NDArray[np.uint8]  # (N, H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)
Translate = Callable[[Images, str], Images]  # images and an edit's name -> as many images of the same size
Roundtrip = Callable[[Images], Images]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MAX_PSNR = 60.0  # dB
DO_NOTHING, VAE_CEILING = "do nothing", "vae ceiling"
_CHUNK = 25  # scenes held at once


class Reader(Protocol):
    """Says what images show: factor -> a value for each image, or "?" for none that it knows."""

    def read(self, images: Images) -> dict[str, list[str]]:
        """Read uint8 (N, H, W, 3)."""


@dataclass(frozen=True)
class Scores:
    """One row of the table: an edit, by a method, on edited or no-op scenes. None: no scene has that region."""

    edit: str
    method: str
    scenes: str
    """`edited`, `held-out`, which are some of these, or `no-op`."""
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


_FIGURES = [item.name for item in fields(Scores)][4:]


def choose_scenes(
    edits: Mapping[str, Mapping[str, str]], num: int, split: str, given: Mapping[str, str] | None = None
) -> list[WorldScene]:
    """The first `num` scenes of a split that have every factor that the edits name.

    Args:
        edits: name -> the factors that it sets.
        num: how many scenes.
        split: of the drawn world.
        given: factors that all of them shall have before the edit.

    Raises:
        RecipeError: if no kind of scene has them all, or a value is unknown: then the drawn world cannot judge them.
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
) -> list[Scores]:
    """Measure `translate` beside the two baselines.

    Args:
        translate: uint8 (N, size, size, 3) and an edit's name -> the edited images, of the same shape.
        edits: name -> the factors that it sets, as in {"color": "red", "material": "leather"}.
        scenes: each must have all the factors; see `choose_scenes`.
        vae_roundtrip: images through the teacher's encoder and decoder.
        reader: the strict factor reader.
        num_no_op_scenes: of `scenes`, how many are also shown to the student as they look after the edit.
        size: side of the images in pixels; the miniature's reader knows 128 alone.
        method: what the rows of `translate` are called.

    Returns:
        For each edit a row for `method`, "do nothing" and "vae ceiling" on edited scenes, then the same on those of
        them that are held out, if there are any, and on no-op scenes.
    """
    rows = []
    for edit, factors in edits.items():
        after = [scene.replace(**factors) for scene in scenes]
        changed = [(old, new) for old, new in zip(scenes, after, strict=True) if old != new]
        unchanged = [(new, new) for new in after[:num_no_op_scenes]]
        for kind, pairs in (("edited", changed), ("no-op", unchanged)):
            tables: dict[str, list[dict[str, float]]] = {method: [], DO_NOTHING: [], VAE_CEILING: []}
            for start in range(0, len(pairs), _CHUNK):
                inputs, truths, masks = _draw(pairs[start : start + _CHUNK], list(factors), size)
                results = {
                    method: translate(inputs, edit),
                    DO_NOTHING: inputs,
                    VAE_CEILING: vae_roundtrip(truths),
                }
                for name, images in results.items():
                    tables[name] += measure(images, inputs, truths, masks, factors, reader)
            rows += [_mean_row(edit, name, kind, table) for name, table in tables.items()]
            unseen = [old.held_out or new.held_out for old, new in pairs]
            if kind == "edited" and any(unseen):
                rows += [
                    _mean_row(edit, name, "held-out", list(compress(table, unseen))) for name, table in tables.items()
                ]
    return rows


def average(rows: Sequence[Scores]) -> list[Scores]:
    """For each method and kind of scenes, the mean over edits; each edit weighs the same."""
    means = []
    for kind, method in dict.fromkeys((row.scenes, row.method) for row in rows):
        group = [row for row in rows if (row.scenes, row.method) == (kind, method)]
        figures: dict[str, float | None] = {}
        for figure in _FIGURES:
            known = [value for row in group if (value := getattr(row, figure)) is not None]
            figures[figure] = float(np.mean(known)) if known else None
        means.append(Scores("mean over edits", method, kind, sum(row.num_scenes for row in group), **figures))
    return means


def psnr(a: Images, b: Images, mask: Mask | None = None) -> float:
    """Of two images, uint8 (H, W, 3), in dB, over a region of at least one pixel; at most MAX_PSNR."""
    error = (a.astype(np.float64) - b.astype(np.float64)) ** 2
    mse = float(error.mean() if mask is None else error[mask].mean())
    return float(min(MAX_PSNR, 10 * np.log10(255.0**2 / max(mse, 1e-12))))


def ssim_map(a: Images, b: Images) -> NDArray[np.float64]:
    """Structural similarity at each pixel of two images, uint8 (H, W, 3) -> (H, W), averaged over channels."""
    from skimage.metrics import structural_similarity

    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        a, b, data_range=255, channel_axis=2, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    values: NDArray[np.float64] = similarity.mean(axis=2, dtype=np.float64)
    return values


def grid_image(
    translate: Translate,
    edits: Mapping[str, Mapping[str, str]],
    scenes: Sequence[WorldScene],
    size: int = 128,
) -> Image.Image:
    """To look at: for each scene the input, and for each edit what the student made above what is true."""
    gap, title, side = 6, 22, 84
    inputs = np.stack([render(scene, size).image for scene in scenes])
    columns = []
    for edit, factors in edits.items():
        truths = [render(scene.replace(**factors), size).image for scene in scenes]
        columns.append((translate(inputs, edit), truths))
    width = side + (1 + len(columns)) * (size + gap)
    page = Image.new("RGB", (width, title + len(scenes) * (2 * size + 2 * gap)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    for column, name in enumerate(["input", *edits]):
        pen.text((side + column * (size + gap), 4), _fitted(pen, font, name, size), "black", font)
    for row, picture in enumerate(inputs):
        top = title + row * (2 * size + 2 * gap)
        page.paste(Image.fromarray(picture), (side, top))
        pen.text((4, top + size // 2 - 8), "translated", "black", font)
        pen.text((4, top + size + size // 2 - 8), "truth", "black", font)
        for column, (translated, truths) in enumerate(columns, start=1):
            left = side + column * (size + gap)
            page.paste(Image.fromarray(translated[row]), (left, top))
            page.paste(Image.fromarray(truths[row]), (left, top + size))
    return page


def _draw(
    pairs: Sequence[tuple[WorldScene, WorldScene]], factors: Sequence[str], size: int
) -> tuple[Images, Images, list[Mask]]:
    """Inputs, truths, and where the edited object is before or after."""
    inputs, truths, masks = [], [], []
    for before, after in pairs:
        old, new = render(before, size), render(after, size)
        names = {MASK_OF[factor] for factor in factors}
        masks.append(np.any([drawing.masks[name] for drawing in (old, new) for name in names], axis=0))
        inputs.append(old.image)
        truths.append(new.image)
    return np.stack(inputs), np.stack(truths), masks


def measure(
    images: Images, inputs: Images, truths: Images, masks: Sequence[Mask], factors: Mapping[str, str], reader: Reader
) -> Iterator[dict[str, float]]:
    """The figures of each edited image; a region without pixels has none.

    Args:
        images: uint8 (N, H, W, 3), edited.
        inputs: as many, before the edit.
        truths: as many, the true counterfactuals.
        masks: N of (H, W), true inside.
        factors: what the edit sets.
        reader: says whether it is there.
    """
    answers = reader.read(images)
    for index, (image, before, truth, mask) in enumerate(zip(images, inputs, truths, masks, strict=True)):
        similarity = ssim_map(image, truth)
        figures = {
            "psnr_all": psnr(image, truth),
            "ssim_all": float(similarity.mean()),
            "right": float(all(answers[factor][index] == value for factor, value in factors.items())),
        }
        for region, pixels in (("inside", mask), ("outside", ~mask)):
            if pixels.any():
                figures[f"psnr_{region}"] = psnr(image, truth, pixels)
                figures[f"ssim_{region}"] = float(similarity[pixels].mean())
        if mask.any():
            figures["sharpness_inside"] = float(_laplacian(image)[mask].mean() / _laplacian(truth)[mask].mean())
        if not mask.all():
            figures["psnr_outside_to_input"] = psnr(image, before, ~mask)
        yield figures


def _laplacian(image: Images) -> NDArray[np.float64]:
    """uint8 (H, W, 3) -> the absolute Laplacian of its grey values, (H, W), with borders repeated."""
    grey = np.pad(image.mean(axis=2, dtype=np.float64), 1, mode="edge")
    neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    values: NDArray[np.float64] = np.abs(4 * grey[1:-1, 1:-1] - neighbours)
    return values


def _mean_row(edit: str, method: str, kind: str, table: Sequence[Mapping[str, float]]) -> Scores:
    return Scores(edit, method, kind, len(table), **{figure: _mean(table, figure) for figure in _FIGURES})


def _mean(table: Sequence[Mapping[str, float]], figure: str) -> float | None:
    known = [row[figure] for row in table if figure in row]
    return float(np.mean(known)) if known else None


def _fitted(pen: ImageDraw.ImageDraw, font: Font, text: str, width: int) -> str:
    while pen.textlength(text, font) > width:
        text = text[:-2].rstrip() + "…"
    return text
