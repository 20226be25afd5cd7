"""A small convolutional U-Net on latents, conditioned on a vector: for phones, browsers and CPUs.

Shapes: N samples, C channels of the latents, h x w their size, W the channels of a level, D the vector's length.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_GROUPS = 16  # of every normalization


class CompactUNet(nn.Module):
    """One level a width, each half as fine as the one above it; no attention, no timestep.

    Any h and w will do: halving rounds up, and on the way up each level is resized to the size that it had. The last
    layer starts at zero, so that an untrained network returns zeros.

    Args:
        channels: C, in and out.
        vector_size: D.
        widths: W of each level, multiples of 16, the finest first.
    """

    def __init__(self, channels: int, vector_size: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Block(width, width, vector_size) for width in widths[:-1])
        self.halve = nn.ModuleList(
            nn.Conv2d(width, below, 3, stride=2, padding=1) for width, below in pairwise(widths)
        )
        self.middle = nn.ModuleList(_Block(widths[-1], widths[-1], vector_size) for _ in range(2))
        self.up = nn.ModuleList(_Block(below + width, width, vector_size) for width, below in pairwise(widths))
        self.norm = nn.GroupNorm(_GROUPS, widths[0])
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)
        for weight in self.last.parameters():
            nn.init.zeros_(weight)

    def forward(self, latents: Tensor, vector: Tensor) -> Tensor:
        """float (N, C, h, w) and (N, D) -> float (N, C, h, w)."""
        x = self.first(latents)  # (N, W0, h, w)
        skips = []
        for block, halve in zip(self.down, self.halve, strict=True):
            x = block(x, vector)  # (N, W, h, w)
            skips.append(x)
            x = halve(x)  # (N, W', ceil(h / 2), ceil(w / 2))
        for block in self.middle:
            x = block(x, vector)
        for block, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")  # (N, W', h, w)
            x = block(torch.cat([x, skip], dim=1), vector)  # (N, W, h, w)
        delta: Tensor = self.last(F.silu(self.norm(x)))  # (N, C, h, w)
        return delta


class _Block(nn.Module):
    """Two convolutions beside a shortcut; the vector scales and shifts the second one's input (FiLM)."""

    def __init__(self, channels_in: int, channels_out: int, vector_size: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.film = nn.Linear(vector_size, 2 * channels_out)
        self.norm2 = nn.GroupNorm(_GROUPS, channels_out, affine=False)  # the vector gives its scale and shift
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """float (N, channels_in, h, w) and (N, D) -> float (N, channels_out, h, w)."""
        y = self.conv1(F.silu(self.norm1(x)))  # (N, W, h, w)
        scale, shift = self.film(vector)[:, :, None, None].chunk(2, dim=1)  # (N, W, 1, 1) each
        y = self.norm2(y) * (1 + scale) + shift  # (N, W, h, w)
        out: Tensor = self.shortcut(x) + self.conv2(F.silu(y))
        return out
