"""From two decoded latents back to an image: what an edit does not touch keeps its own pixels.

    translated = image + k (decode(z) - base),    base = (1 - m) decode(z_hat) + m image,
    m = min(1, |change| / LARGE),    k = min(1, |change| / (SMALL |strength|)),

where change = decode(z) - decode(z_hat), and its size is that of its largest channel.

A VAE loses detail. Where an edit changes little (m near 0), the difference of the two decodes is added to the image,
which keeps the detail that the VAE lost. Where it changes much (m = 1), the decode replaces the image: the lost
detail belongs to what is no longer there, and would shine through, stripes through velvet. Where it changes next to
nothing (k near 0), nobody asked for the change: it is a student's last error, and is undone. This threshold scales
with the strength, or half an edit would lose more than half of what the whole one has.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synth.pixels import to_float, to_uint8

if TYPE_CHECKING:
    from distill.students import Student
    from synth.teacher.teacher import Teacher

LARGE = 0.4
"""The change, of 2 from black to white, at which nothing of the image is left; chosen on development scenes."""
SMALL = 0.1
"""The change, at strength 1, below which it is undone: 13 of 255 grey levels. A larger one would help most edits of
the miniature, and harm the faint ones that a larger world has."""
_MIN_STRENGTH = 1e-3  # before it divides


def change_of_pixels(image: Tensor, edited: Tensor, plain: Tensor, strength: Tensor | float = 1.0) -> Tensor:
    """Compute what an edit adds to an image: exactly nothing where both decodes are the same.

    Args:
        image: x, float (N, 3, H, W) in [-1, 1].
        edited: decode(z), the same shape.
        plain: decode(z_hat), the same shape.
        strength: of the edit, a number or float (N,).

    Returns:
        translated - image, float (N, 3, H, W).
    """
    size = (edited - plain).abs().amax(dim=1, keepdim=True)  # (N, 1, H, W)
    base = torch.lerp(plain, image, (size / LARGE).clamp(max=1.0))  # (N, 3, H, W)
    amount = torch.as_tensor(strength, dtype=size.dtype, device=size.device).abs().clamp(min=_MIN_STRENGTH)
    kept = (size / (SMALL * amount.reshape(-1, 1, 1, 1))).clamp(max=1.0)  # (N, 1, H, W)
    return torch.lerp(base, edited, kept) - base


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
        return to_uint8(x + change_of_pixels(x, edited, plain))
