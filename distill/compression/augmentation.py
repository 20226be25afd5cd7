"""Changes of an image that keep its edit true: mirrored, cropped, in more light or less; both sides alike."""

from dataclasses import dataclass

import torch
from torch import Tensor

from synth.seeds import derive_seed

_MIN_CROP = 0.75  # of a side
_MAX_GAIN = 0.1  # contrast: pixels times 0.9 to 1.1
_MAX_OFFSET = 0.05  # brightness, of 2 from black to white


@dataclass(frozen=True)
class Augmentation:
    """What happens to one pair in one step."""

    is_mirrored: bool
    top: float
    """Where the crop begins: 0 is the first row that it may, 1 the last."""
    left: float
    gain: float
    offset: float

    def apply(self, images: Tensor, height: int, width: int) -> Tensor:
        """Crop, mirror and light images: float (..., H, W) in [-1, 1] -> (..., height, width) in [-1, 1]."""
        top = round(self.top * (images.shape[-2] - height))
        left = round(self.left * (images.shape[-1] - width))
        crop = images[..., top : top + height, left : left + width]  # (..., height, width)
        mirrored = crop.flip(-1) if self.is_mirrored else crop
        return (mirrored * self.gain + self.offset).clamp(-1.0, 1.0)


def draw_augmentation(seed: int, position: int) -> Augmentation:
    """Draw what happens to the pair in the `position`th place of a training."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "pixel augmentation", position))
    mirror, top, left, gain, offset = torch.rand(5, generator=generator).tolist()
    return Augmentation(mirror < 0.5, top, left, 1 + _MAX_GAIN * (2 * gain - 1), _MAX_OFFSET * (2 * offset - 1))


def draw_crop(seed: int, step: int, height: int, width: int) -> tuple[int, int]:
    """Draw the size of a step's crops: in every other step the whole image, else down to three quarters of a side.

    The sizes are any whole numbers, so that the network also meets sides that it must pad.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "pixel crop", step))
    whole, fraction = torch.rand(2, generator=generator).tolist()
    kept = 1.0 if whole < 0.5 else _MIN_CROP + (1 - _MIN_CROP) * fraction
    return max(1, round(kept * height)), max(1, round(kept * width))
