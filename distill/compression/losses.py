"""What a pixel network minimizes: the distance between its images x and the student's, y, in six terms.

    |x - y|  +  change_weight |x - y|_c  +  gradient_weight |grad x - grad y|
             +  feature_weight |f(x) - f(y)| / |f(y)|  +  texture_weight |s(x) - s(y)| / |f(y)|
             +  variogram_weight |v(x) - v(y)|_c, in the last part of the training

The first alone has a trap: where an edit changes little of an image, doing nothing is nearly right. So the second is
the mean over what the edit changes, each pixel weighted by how much, c = |y - input|. Both blur what differs from
image to image, such as pleats and buttons: the third keeps edges sharp, and the fourth compares f, what the teacher's
own VAE encoder sees, which needs no download and knows what the teacher's images are made of. All four still prefer a
smooth surface to a pleat in the wrong place. The fifth does not: s, the standard deviation of f in small cells, asks
for as much texture as the student's, wherever it lies in the cell.

That texture is still soft. The sixth asks how coarse it is, too: v is a local variogram (Matheron, Principles of
Geostatistics, Economic Geology 1963), how much two pixels differ by their distance. One distance would not do: the
cheapest way to as much contrast between neighbours is a checkerboard, and that does not differ at all from itself two
pixels further.

Shapes: N samples, H x W an image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.settings import PixelSettings
from synth.seeds import derive_seed
from synth.teacher.teacher import Teacher

_NUM_STAGES = 3  # of the encoder: its first layer, and two of its levels
_MIN_SIZE = 1e-4  # of a feature map, before it divides
_CELL = 4  # positions of a feature map a side, over which a texture's strength is measured
_MIN_VARIANCE = 1e-3  # beside a mean size of 1; bounds the root's gradient where a surface is smooth
_LAGS = (1, 2, 3, 4)  # px: the distances of the variogram
_SQUARE = 8  # px a side, over which it is averaged; half a square from one to the next


@dataclass(frozen=True)
class Losses:
    """The terms of a step's loss, each a mean."""

    pixels: Tensor
    change: Tensor
    gradients: Tensor
    features: Tensor
    textures: Tensor
    variogram: Tensor

    def weighted(self, settings: PixelSettings) -> Tensor:
        """What a step minimizes: their sum, by the settings' weights."""
        total: Tensor = (
            self.pixels
            + settings.change_weight * self.change
            + settings.gradient_weight * self.gradients
            + settings.feature_weight * self.features
            + settings.texture_weight * self.textures
            + settings.variogram_weight * self.variogram
        )
        return total

    def values(self) -> dict[str, float]:
        """The terms as numbers, by their names; waits once for a GPU."""
        terms = vars(self)
        return dict(zip(terms, torch.stack([term.detach() for term in terms.values()]).tolist(), strict=True))


def pixel_loss(x: Tensor, y: Tensor) -> Tensor:
    """L1, a mean over all elements: float (N, 3, H, W) twice -> ()."""
    return (x - y).abs().mean()


def change_loss(x: Tensor, y: Tensor, image: Tensor) -> Tensor:
    """L1 over what the edit changes: float (N, 3, H, W) three times -> (); 0 where it changes nothing at all."""
    change = (y - image).abs()
    return ((x - y).abs() * change).sum() / change.sum().clamp(min=_MIN_SIZE)


def gradient_loss(x: Tensor, y: Tensor) -> Tensor:
    """L1 of the differences between neighbours, over both directions: float (N, 3, H, W) twice -> ()."""
    error = x - y
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def deviation(features: Tensor) -> Tensor:
    """Standard deviations over cells of a map: float (N, C, h, w) -> (N, C, h / 4, w / 4), rounded up."""
    mean = F.avg_pool2d(features, _CELL, ceil_mode=True)
    variance = F.avg_pool2d(features**2, _CELL, ceil_mode=True) - mean**2
    return variance.clamp(min=_MIN_VARIANCE).sqrt()


def variogram_loss(x: Tensor, y: Tensor, image: Tensor) -> Tensor:
    """L1 of local variograms over what the edit changes: float (N, 3, H, W) three times -> ().

    It is summed over both directions and all lags, each divided by its lag: contrast a pixel, which is then much the
    same for fine and for coarse textures.
    """
    change = _mean_of_squares((y - image).abs())[:, None]  # (N, 1, 3, h, w)
    size = change.sum().clamp(min=_MIN_SIZE)
    errors = [(local_variogram(x, lag) - local_variogram(y, lag)).abs() / lag for lag in _LAGS]  # (N, 2, 3, h, w)
    return torch.stack([(error * change).sum() / size for error in errors]).sum()


def local_variogram(images: Tensor, lag: int) -> Tensor:
    """The mean absolute difference of two pixels at a distance, square by square.

    Args:
        images: float (N, C, H, W).
        lag: the distance, in pixels.

    Returns:
        float (N, 2, C, H / 4, W / 4), rounded up: along rows, and along columns. Beyond the border the last pixel is
        repeated.
    """
    right = F.pad(images, (0, lag, 0, 0), mode="replicate")[..., lag:]  # (N, C, H, W)
    below = F.pad(images, (0, 0, 0, lag), mode="replicate")[..., lag:, :]
    return torch.stack([_mean_of_squares((other - images).abs()) for other in (right, below)], dim=1)


def _mean_of_squares(images: Tensor) -> Tensor:
    """float (N, C, H, W) -> (N, C, H / 4, W / 4), rounded up."""
    return F.avg_pool2d(images, _SQUARE, _SQUARE // 2, padding=_SQUARE // 4, ceil_mode=True, count_include_pad=False)


class FeatureLoss:
    """Distances between features of images, in a window of each: a quarter of the pixels, a quarter of the time.

    Args:
        teacher: its VAE's encoder computes the features, in its own precision.
    """

    def __init__(self, teacher: Teacher) -> None:
        encoder = teacher.vae.encoder
        # An AutoencoderTiny's encoder is one sequence of layers.
        stages = [encoder.conv_in, *encoder.down_blocks] if hasattr(encoder, "conv_in") else list(encoder.layers)
        self._stages: list[nn.Module] = stages[:_NUM_STAGES]
        self._dtype: torch.dtype = teacher.vae.dtype

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Compare windows, float (N, 3, H, W) in [-1, 1]; the gradient reaches x alone.

        Returns:
            The distance of the features and of their textures, () each.
        """
        with torch.no_grad():
            wanted = self._features(y)
        distances, textures = [], []
        for f_x, f_y in zip(self._features(x), wanted, strict=True):
            size = f_y.abs().mean().clamp(min=_MIN_SIZE)
            distances.append((f_x - f_y).abs().mean() / size)
            textures.append((deviation(f_x / size) - deviation(f_y / size)).abs().mean())
        return torch.stack(distances).mean(), torch.stack(textures).mean()

    def _features(self, images: Tensor) -> list[Tensor]:
        """Each stage's output, float32 (N, C, h, w)."""
        features = []
        x = images.to(self._dtype)
        for stage in self._stages:
            x = stage(x)
            features.append(x.float())
        return features


def draw_window(seed: int, position: int, change: Tensor) -> tuple[slice, slice]:
    """Draw where the features of one pair are compared: around a pixel, the likelier the more the edit changed it.

    Args:
        seed: of the training.
        position: the pair's place in the training.
        change: float (H, W), at least 0, on the CPU.

    Returns:
        Rows and columns of a window of half the height and width.
    """
    height, width = change.shape
    generator = torch.Generator().manual_seed(derive_seed(seed, "pixel window", position))
    weights = change.flatten().double() + 1e-9  # an edit that changes nothing: anywhere
    row, column = divmod(int(torch.multinomial(weights, 1, generator=generator)), width)
    tall, wide = max(1, height // 2), max(1, width // 2)
    top, left = (
        min(max(0, centre - side // 2), whole - side)
        for centre, side, whole in ((row, tall, height), (column, wide, width))
    )
    return slice(top, top + tall), slice(left, left + wide)
