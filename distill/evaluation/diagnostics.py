"""Diagnostics: signs that an edit goes wrong, read off images before and after it.

Pure: arrays in, metrics and advice out. A preview runs them on zero-shot edits before a training, a training on its
own samples. They find the faults that waste a training, not the edit itself: whether a sofa is purple velvet now is
for a person to see. Each threshold is a round number, set by eye on edits of the miniature's images; none has been
tried on others yet.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.evaluation.metrics import Images

NOTHING_MOVES = "nothing moves"

VISIBLE = 16.0
"""Of 255, in any channel: a change that one sees when two images lie side by side. What a VAE loses does not count
where an edit changes little, for there the change is laid onto the original (`distill.composition`)."""

MIN_CHANGED_SHARE = 0.01
"""Nothing moves if less of the image changes visibly: a hundredth is a square of a tenth of each side, and what
people name in a text is seldom smaller."""

MAX_BACKGROUND_CHANGE = 8.0
"""The background is lost if the quietest quarter of an image changes by more than this, of 255. It is half of what
one sees, and an edit of an object leaves a quarter of the image untouched. Edits of the miniature's rooms that look
right stayed below 6; at guidance 40 they came to between 8 and 20."""

MAX_CLIPPED_SHARE = 0.05
"""Colours saturate if this much more of the image than before has a channel at an end of its range: guidance that is
too strong pushes latents out of the range that the VAE can show, and a twentieth of an image is a visible patch."""

MIN_VARIETY = 0.5
"""There is one output for all if edited images differ from each other by less than half as much as the inputs did: an
edit that sets one thing in common leaves most of the differences in place."""

_MIN_SPREAD = 1.0  # of 255: inputs that differ less from their mean are too much alike to show a collapse
_END = 2  # of 255: how near the ends of the range count as the end
_CELLS = 16  # a side: images are compared in small, so that single pixels do not count


@dataclass(frozen=True)
class ChangeMetrics:
    """How a set of edited images differs from its inputs."""

    changed_share: float
    """Share of the pixels that changed visibly."""
    background_change: float
    """Mean change of the quietest quarter of each image, of 255."""
    clipped_share: float
    """How much larger the share of pixels with a channel at an end of its range became."""
    variety: float | None
    """How far the edited images differ from each other, as a share of how far the inputs did; None for one image, or
    for inputs that are too much alike to tell."""


@dataclass(frozen=True)
class Diagnostic:
    """Something that speaks against an edit's settings, with a remedy."""

    name: str
    measured: str
    advice: str


def measure_change(before: Images, after: Images) -> ChangeMetrics:
    """Measure images before and after an edit.

    Args:
        before: uint8 (N, H, W, 3).
        after: the same shape, edited.
    """
    change = np.abs(after.astype(np.float32) - before).max(axis=3)  # (N, H, W)
    calm = np.sort(_cells(change).reshape(len(change), -1), axis=1)  # (N, cells), ascending
    return ChangeMetrics(
        changed_share=float((change > VISIBLE).mean()),
        background_change=float(calm[:, : max(1, calm.shape[1] // 4)].mean()),
        clipped_share=max(0.0, _clipped(after) - _clipped(before)),
        variety=variety(before, after),
    )


def diagnose(metrics: ChangeMetrics, whole_image: bool = False) -> list[Diagnostic]:
    """List what speaks against an edit: nothing, where no threshold is passed.

    Args:
        metrics: of the images.
        whole_image: the edit is meant to change all of the image, as weather and styles do: then a change of the
            background says nothing.
    """
    found = []
    # Each advice names the keys of a recipe that move the measured value, the strongest first.
    if metrics.changed_share < MIN_CHANGED_SHARE:
        found.append(
            Diagnostic(
                NOTHING_MOVES,
                f"{metrics.changed_share:.1%} of the image changes visibly",
                "raise the guidance (training.guidance_end) or the iterations; say more plainly in the edit what "
                "differs from the source text",
            )
        )
    if not whole_image and metrics.background_change > MAX_BACKGROUND_CHANGE:
        found.append(
            Diagnostic(
                "background lost",
                f"the quietest quarter changes by {metrics.background_change:.0f} of 255",
                "lower the guidance (training.guidance_end) or raise training.lambda_id_end; let the source text "
                "name the surroundings, and differ from the target in the edit alone",
            )
        )
    if metrics.clipped_share > MAX_CLIPPED_SHARE:
        found.append(
            Diagnostic(
                "colours saturate",
                f"{metrics.clipped_share:.0%} more of the image is at an end of its range",
                "lower the guidance (training.guidance_end), or take fewer iterations (training.steps)",
            )
        )
    if metrics.variety is not None and metrics.variety < MIN_VARIETY:
        found.append(
            Diagnostic(
                "one output for all",
                f"the results differ from each other {metrics.variety:.0%} as much as the inputs",
                "lower the guidance, lengthen training.guidance_warmup_steps; let the source text be true of each "
                "image, with slots for what varies",
            )
        )
    return found


def variety(before: Images, after: Images) -> float | None:
    """Measure how far edited images differ from each other, as a share of how far their inputs did.

    Args:
        before: uint8 (N, H, W, 3).
        after: the same shape, edited.

    Returns:
        None where the inputs are too much alike to tell, or there is one alone.
    """
    spread = _spread(before)  # 0 for a single image
    return _spread(after) / spread if spread >= _MIN_SPREAD else None


def _spread(images: Images) -> float:
    """The mean distance of the images, in small, from their common mean."""
    small = np.stack([_cells(channel) for channel in np.moveaxis(images.astype(np.float32), 3, 0)])  # (3, N, h, w)
    return float(np.abs(small - small.mean(axis=1, keepdims=True)).mean())


def _cells(change: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, H, W) -> (N, cells, cells): the means of squares; what is left over at the right and below is cut."""
    num, height, width = change.shape
    rows = min(_CELLS, height)
    columns = min(_CELLS, width)
    cut = change[:, : height // rows * rows, : width // columns * columns]
    cells: NDArray[np.float32] = cut.reshape(num, rows, height // rows, columns, width // columns).mean(axis=(2, 4))
    return cells


def _clipped(images: Images) -> float:
    """The share of pixels that have a channel at an end of its range."""
    return float(((images <= _END) | (images >= 255 - _END)).any(axis=3).mean())
