"""From two decoded latents back to an image: an edit ends where its object ends, and the rest keeps its own pixels.

    translated = image + matte (decode(z) - base),    base = (1 - m) decode(z_hat) + m image,
    m = min(1, |change| / REPLACED),    change = decode(z) - decode(z_hat),

where the size of a change is that of its largest channel. A VAE loses detail. Where an edit changes little (m near
0), the difference of the two decodes is added to the image, which keeps the detail that the VAE lost. Where it
changes much (m = 1), the decode replaces the image: the lost detail belongs to what is no longer there, and would
shine through, stripes through velvet.

The matte says where the edit is. A latent is a cell of 8 x 8 pixels, so that an edit bleeds over the outline of its
object: a haze around a sofa. The image knows the outline, and a guided filter G along its edges finds it
(`distill.guided_filter`):

    matte = max(2 G(image, ramp(|change| / s; FAINT, CLEAR)) - 1/2, ramp(|change|; LARGE, CERTAIN)), within 0 and 1,

where a ramp rises from 0 to 1 between two sizes. The first term doubles the filter's contrast around a half, which
makes edges sharp. Haze is faint beside what it comes from, while an edit may be faint everywhere, such as a sunset: s
is the largest change within a cell's distance, over NEAR, at least LEAST and at most 1. The second term is for new
shapes, whose edges the image lacks, a bloom before a plain wall: a change that is too large for a haze stands by
itself. At a strength other than 1 the matte is that of the change over |strength|, or half an edit would lose more
than half of what the whole one has.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from distill.guided_filter import guided_filter
from synth.pixels import to_float, to_uint8

if TYPE_CHECKING:
    from distill.students import Student
    from synth.teacher.teacher import Teacher

# All were chosen on development scenes (docs/method.md). Changes are of 2, from black to white.
REPLACED = 0.4
"""The change at which nothing of the image is left."""
FAINT, CLEAR = 0.1, 0.3
"""Beside a large change: the one that no edit is asked for, and the one that belongs to the edit."""
NEAR = 0.4
"""The largest change around at which the two hold; around a smaller one they are smaller in proportion."""
LEAST = 0.25
"""Of FAINT and CLEAR: what they come down to. Where no change exceeds FAINT LEAST, 3 of 255, all are undone."""
LARGE, CERTAIN = 0.8, 1.2
"""The changes between which one belongs to the edit more and more, whatever lies around it."""
EPS = 4e-3
"""The guide's contrasts with a variance far below this count as flat: 8 of 255 grey levels."""
_MIN_STRENGTH = 1e-3  # before it divides


def change_of_pixels(
    image: Tensor, edited: Tensor, plain: Tensor, cell: int, strength: Tensor | float = 1.0
) -> Tensor:
    """Compute what an edit adds to an image: exactly nothing where both decodes are the same.

    Args:
        image: x, float (N, 3, H, W) in [-1, 1], H and W multiples of a cell.
        edited: decode(z), the same shape.
        plain: decode(z_hat), the same shape.
        cell: pixels a side of a latent, the VAE's scale factor.
        strength: of the edit, a number or float (N,).

    Returns:
        translated - image, float (N, 3, H, W).
    """
    size = (edited - plain).abs().amax(dim=1, keepdim=True)  # (N, 1, H, W)
    base = torch.lerp(plain, image, (size / REPLACED).clamp(max=1.0))  # (N, 3, H, W)
    return matte(image, size, cell, strength) * (edited - base)


def matte(image: Tensor, size: Tensor, cell: int, strength: Tensor | float = 1.0) -> Tensor:
    """Say where an edit is, by the size of its change and the image's own edges.

    Args:
        image: x, float (N, 3, H, W) in [-1, 1].
        size: |change|, float (N, 1, H, W).
        cell: pixels a side of a latent.
        strength: of the edit, a number or float (N,).

    Returns:
        float (N, 1, H, W) in [0, 1].
    """
    amount = torch.as_tensor(strength, dtype=size.dtype, device=size.device).abs().clamp(min=_MIN_STRENGTH)
    size = size / amount.reshape(-1, 1, 1, 1)  # (N, 1, H, W)
    step = max(1, cell // 2)  # of the grid on which what is around is looked at
    reach = cell // step  # as far as an edit bleeds
    coarse = max_pool2d(max_pool2d(size, step), 2 * reach + 1, stride=1, padding=reach)  # (N, 1, h, w)
    around = interpolate(coarse, scale_factor=float(step), mode="nearest")  # (N, 1, H, W)
    share = _ramp(size / (around / NEAR).clamp(LEAST, 1.0), FAINT, CLEAR)  # (N, 1, H, W)
    smooth = guided_filter(image, share, reach, EPS, step)  # (N, 1, H, W)
    return torch.maximum((2.0 * smooth - 0.5).clamp(0.0, 1.0), _ramp(size, LARGE, CERTAIN))


def _ramp(size: Tensor, start: float, end: float) -> Tensor:
    return ((size - start) / (end - start)).clamp(0.0, 1.0)


def translated(teacher: "Teacher", student: "Student", images: NDArray[np.uint8], edit: int) -> NDArray[np.uint8]:
    """Translate images by one edit: decode(z_hat + delta), laid onto them (`distill.composition`).

    Args:
        teacher: its VAE encodes and decodes.
        student: of that teacher.
        images: uint8 (N, H, W, 3).
        edit: its number.

    Returns:
        uint8 (N, H, W, 3).
    """
    x = to_float(torch.from_numpy(images)).to(teacher.device)  # (N, 3, H, W)
    with torch.no_grad():
        z_hat = teacher.encode(x).float()  # (N, C, h, w)
        delta = student(z_hat, torch.full((len(x),), edit, device=teacher.device))  # (N, C, h, w)
        edited = teacher.decode(z_hat + delta).float()  # (N, 3, H, W)
        plain = teacher.decode(z_hat).float()  # (N, 3, H, W)
        return to_uint8(x + change_of_pixels(x, edited, plain, teacher.vae_scale_factor))
