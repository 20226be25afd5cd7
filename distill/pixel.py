"""The pixel network: image in, edited image out, in one pass without a VAE; it learns from what a student makes.

    whole = image + gate (colour - image),    translated = image + strength (whole - image).

The network proposes a colour for every pixel, and a gate that says how much of the image it replaces. Where the gate
is 0, the image keeps its own bits. So one small network does what a latent student needs encoder, U-Net and two
decodes for: it regresses onto the student's images (`distill.compression`), and averages the student's errors out.

    image ─ pad ─ unshuffle by 4 ─ block ───────── + ─ block ─ colour, gate ─ shuffle by 4 ─ crop
                                     └ block ── + ─ block ┘
                                         └ block ┘

Shapes: N samples, K edits, H x W an image, h x w the same padded and divided by 4, W the channels of a level, D the
length of an edit's vector.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from distill.settings import PixelSettings
from synth.errors import TrainingError
from synth.pixels import to_float, to_uint8
from synth.seeds import derive_seed
from synth.state import read_network

_PATCH = 4  # px a side that become one position of the finest level
_VECTOR_SIZE = 64  # D
_STRETCH = 0.05  # how far the gate's sigmoid reaches beyond 0 and 1, before it is cut there


class PixelNetwork(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A convolutional U-Net on pixels, trained from scratch; a learned vector tells it which edit to make.

    It has the inputs and the output of a model file. An edit's number is its place in `edits`.

    Args:
        edit_names: an edit's number is its place here.
        edit_prompts: for each edit an example of its target prompt.
        widths: W of each level, the finest first; each level is half as fine as the one before it.
        blocks: residual blocks of each level, on the way down and again on the way up.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, edit_names: list[str], edit_prompts: list[str], widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        finest, coarsest = widths[0], widths[-1]
        self.vectors = nn.Parameter(torch.randn(len(edit_names), _VECTOR_SIZE))  # (K, D)
        self.first = _ConvNorm(3 * _PATCH**2, finest, 3)
        self.down = nn.ModuleList(_Level(width, blocks) for width in widths[:-1])
        self.shrink = nn.ModuleList(_ConvNorm(width, below, 2, stride=2) for width, below in pairwise(widths))
        self.middle = _Level(coarsest, blocks)
        self.grow = nn.ModuleList(_ConvNorm(below, 4 * width, 1) for width, below in pairwise(widths))
        self.up = nn.ModuleList(_Level(width, blocks) for width in widths[:-1])
        # Two layers rather than one: in eight bits each then has a range of its own.
        self.colour = nn.Conv2d(finest, 3 * _PATCH**2, 3, padding=1)
        self.gate = nn.Conv2d(finest, _PATCH**2, 3, padding=1)

    @property
    def edits(self) -> dict[str, str]:
        """Name -> an example of the target prompt, in the order of the edits' numbers."""
        return dict(zip(self.config.edit_names, self.config.edit_prompts, strict=True))

    def forward(self, image: Tensor, edit: Tensor, strength: Tensor) -> Tensor:
        """Translate images of any size.

        Args:
            image: float32 (N, 3, H, W) in [-1, 1].
            edit: int64 (N,), numbers of edits.
            strength: float32 (N,); 0 returns the very image.

        Returns:
            float32 (N, 3, H, W) in [-1, 1].
        """
        colour, gate = self.propose(image.to(self.dtype), edit)  # (N, 3, H, W) and (N, 1, H, W)
        return laid_on(image, colour.float(), gate.float(), strength)

    def propose(self, image: Tensor, edit: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what the edit would put where, in the network's own precision.

        Returns:
            colour, (N, 3, H, W), about [-1, 1], and gate, (N, 1, H, W) in [0, 1].
        """
        height, width = image.shape[2:]
        vector = self.vectors[edit]  # (N, D)
        x = F.pixel_unshuffle(padded(image, self.multiple), _PATCH)  # (N, 48, h, w)
        x = F.relu(self.first(x))  # (N, W0, h, w)
        skips = []
        for level, shrink in zip(self.down, self.shrink, strict=True):
            x = level(x, vector)  # (N, W, h, w)
            skips.append(x)
            x = F.relu(shrink(x))  # (N, W', h / 2, w / 2)
        x = self.middle(x, vector)
        for level, grow, skip in zip(reversed(self.up), reversed(self.grow), reversed(skips), strict=True):
            x = skip + F.pixel_shuffle(grow(x), 2)  # (N, 4 W, h / 2, w / 2) -> (N, W, h, w)
            x = level(x, vector)
        colour = F.pixel_shuffle(self.colour(x), _PATCH)[..., :height, :width]  # (N, 48, h, w) -> (N, 3, H, W)
        gate = F.pixel_shuffle(self.gate(x), _PATCH)[..., :height, :width]  # (N, 16, h, w) -> (N, 1, H, W)
        return colour, opened(torch.sigmoid(gate))

    @property
    def multiple(self) -> int:
        """What the sides of an image are padded to whole multiples of, in pixels."""
        return _PATCH * int(2 ** len(self.shrink))

    def folded(self) -> "PixelNetwork":
        """Return the same function for inference: each batch normalization folded into its convolution."""
        network: PixelNetwork = deepcopy(self).eval()
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, _ConvNorm):
                    setattr(module, name, fuse_conv_bn_eval(child.conv, child.norm))
        return network


class _ConvNorm(nn.Module):
    """A convolution and its batch normalization, which `PixelNetwork.folded` makes one."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2 if stride == 1 else 0)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """float (N, channels_in, h, w) -> float (N, channels_out, h / stride, w / stride)."""
        normed: Tensor = self.norm(self.conv(x))
        return normed


class _Level(nn.Module):
    """The residual blocks of one level."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """float (N, W, h, w) and (N, D) -> float (N, W, h, w)."""
        for block in self.blocks:
            x = block(x, vector)
        return x


class _Block(nn.Module):
    """Two convolutions beside a shortcut; the edit's vector scales and shifts what lies between them (FiLM)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(width, width, 3)
        self.film = nn.Linear(_VECTOR_SIZE, 2 * width)
        self.conv2 = _ConvNorm(width, width, 3)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """float (N, W, h, w) and (N, D) -> float (N, W, h, w)."""
        scale, shift = self.film(vector)[:, :, None, None].chunk(2, dim=1)  # (N, W, 1, 1) each
        y = F.relu(self.conv1(x) * (1 + scale) + shift)  # (N, W, h, w)
        return F.relu(x + self.conv2(y))


def opened(gate: Tensor) -> Tensor:
    """Stretch a gate beyond (0, 1) and cut it there, so that it reaches both ends: what nobody edits keeps its bits.

    The gradient passes as if nothing were cut: otherwise a gate that closed too early could never open again.
    """
    cut = (gate * (1 + 2 * _STRETCH) - _STRETCH).clamp(0.0, 1.0)
    return gate + (cut - gate).detach() if gate.requires_grad else cut


def laid_on(image: Tensor, colour: Tensor, gate: Tensor, strength: Tensor) -> Tensor:
    """Lay proposed colours onto images: nothing changes where the gate or the strength is 0.

    Args:
        image: float (N, 3, H, W) in [-1, 1].
        colour: float (N, 3, H, W).
        gate: float (N, 1, H, W) in [0, 1].
        strength: float (N,).

    Returns:
        float (N, 3, H, W) in [-1, 1].
    """
    amount = strength[:, None, None, None]  # (N, 1, 1, 1)
    whole = image + gate * (colour - image)
    result = (image + amount * (whole - image)).clamp(-1.0, 1.0)
    # Exact by construction, as in the student's file: whatever the network proposed, a NaN included.
    return torch.where(amount == 0, image, result)


def padded(image: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are whole multiples: (N, 3, H, W) -> (N, 3, H', W')."""
    height, width = image.shape[2:]
    # So written, an exporter's solver sees that the new sides divide by the multiple.
    below, right = ((side + multiple - 1) // multiple * multiple - side for side in (height, width))
    return F.pad(image, (0, right, 0, below), mode="replicate")


@torch.no_grad()
def translated(network: PixelNetwork, images: NDArray[np.uint8], edit: int) -> NDArray[np.uint8]:
    """Make one edit in images, uint8 (N, H, W, 3) -> the same shape, by a network in evaluation mode."""
    x = to_float(torch.from_numpy(images)).to(network.device)  # (N, 3, H, W)
    numbers = torch.full((len(x),), edit, device=network.device)  # (N,)
    return to_uint8(network(x, numbers, torch.ones(len(x), device=network.device)))


def new_network(edits: Mapping[str, str], settings: PixelSettings) -> PixelNetwork:
    """Make an untrained network on the CPU; its first weights follow from the settings' seed.

    Args:
        edits: name -> an example of the target prompt.
        settings: widths, depth and seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "pixel network"))
        widths, blocks = settings.shape()
        network: PixelNetwork = PixelNetwork(list(edits), list(edits.values()), list(widths), blocks)
    return network


def load_network(folder: Path) -> PixelNetwork:
    """Load a pixel network from the folder that it was saved in, for inference.

    Raises:
        TrainingError: if a file of it is missing or damaged, or lacks weights.
    """
    remedy = f"delete {folder}, and `distillery compress` writes it again"
    network: Any = read_network(PixelNetwork, folder, TrainingError, remedy)
    return cast(PixelNetwork, network.eval())
