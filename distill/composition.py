"""From two decoded latents back to a picture: what an edit leaves alone keeps its own pixels.

    translated = image + decode(z) - base,    base = (1 - m) decode(z_hat) + m image,    m = min(1, |change| / LARGE)

A VAE loses detail. Where an edit changes little (m near 0), the difference of the two decodes is laid onto the
picture, so that what was lost comes back with the picture itself. Where it changes much (m = 1), the decode stands
alone: the lost detail belongs to what is no longer there, and would shine through it, stripes through velvet.
"""

import torch
from torch import Tensor

LARGE = 0.4
"""The change, of 2 from black to white, from which on nothing of the picture is left; from development scenes."""


def change_of_pixels(image: Tensor, edited: Tensor, plain: Tensor) -> Tensor:
    """What an edit adds to a picture; exactly nothing where both decodes are the same.

    Args:
        image: x, float (N, 3, H, W) in [-1, 1].
        edited: decode(z), shaped as it is.
        plain: decode(z_hat), shaped as it is.

    Returns:
        float (N, 3, H, W): translated - image.
    """
    size = (edited - plain).abs().amax(dim=1, keepdim=True)  # (N, 1, H, W)
    base = torch.lerp(plain, image, (size / LARGE).clamp(max=1.0))  # (N, 3, H, W)
    return edited - base
