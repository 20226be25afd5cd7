"""Factor readers: what does an image show? A small network with one head for each factor of the drawn world.

Strict on purpose. Every head may answer "none of these" (`NONE`), and is trained to do so on images half-way
between two values: a sofa between red and orange is not a red sofa. The readers only measure: they never take part
in training a student or in choosing its training images.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from synth.errors import TeacherError
from synth.files import whole_file
from synth.pixels import to_float
from synth.state import read_tensors, reading
from synth.world.scenes import FACTORS, WorldScene

NONE = "?"
THRESHOLD = 0.6  # a less probable answer becomes "none of these"
WEIGHTS = Path(__file__).parents[1] / "miniature" / "weights" / "reader"
HEADS: dict[str, tuple[str, ...]] = {
    "kind": tuple(FACTORS),
    **{factor: values for factors in FACTORS.values() for factor, values in factors.items()},
}
Labels = dict[str, str]


class FactorNetwork(nn.Module):
    """(N, 3, 128, 128) in [-1, 1] -> for each head, logits (N, values + 1); the last stands for "none of these"."""

    def __init__(self) -> None:
        super().__init__()
        widths = (48, 64, 96, 128)
        layers: list[nn.Module] = [
            nn.Conv2d(3, 48, 4, stride=4),
            nn.BatchNorm2d(48),
            nn.SiLU(),
        ]  # 128 -> 32, lossless
        for before, after in zip((48, *widths), widths, strict=False):
            if after != before:
                layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)  # (N, 128, 4, 4)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(2 * widths[-1], len(values) + 1) for name, values in HEADS.items()}
        )

    def features(self, images: Tensor) -> Tensor:
        """The input of all heads, (N, 256)."""
        maps = self.trunk(images)
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the logits of each head."""
        pooled = self.features(images)
        return {name: head(pooled) for name, head in self.heads.items()}


class FactorReader:
    """Reads the factors that images of 128 x 128 show.

    >>> FactorReader.load().read(images)["color"]  # doctest: +SKIP
    ['red', '?', 'blue']
    """

    def __init__(self, network: FactorNetwork) -> None:
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path = WEIGHTS) -> "FactorReader":
        """Load `reader.safetensors` from a folder, in float32.

        Raises:
            TeacherError: if it is missing or damaged.
        """
        network = FactorNetwork()
        path, remedy = folder / "reader.safetensors", "restore it, or run the miniature's stage reader again"
        weights, _ = read_tensors(path, TeacherError, remedy)
        with reading(path, TeacherError, remedy):
            network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        return cls(network)

    def save(self, folder: Path) -> None:
        """Write `reader.safetensors`, in float16."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.network.state_dict()
        half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        with whole_file(folder / "reader.safetensors") as temporary:
            save_file({key: value.cpu().contiguous() for key, value in half.items()}, temporary)

    @torch.no_grad()
    def read(self, images: NDArray[np.uint8]) -> dict[str, list[str]]:
        """Read each factor's value in each image, or `NONE`.

        Args:
            images: uint8 (N, 128, 128, 3).

        Raises:
            ValueError: for images of another size.
        """
        answers: dict[str, list[str]] = {name: [] for name in HEADS}
        for batch in self._batches(images):
            for name, logits in self.network(batch).items():
                sure, best = logits.float().softmax(dim=1).max(dim=1)
                values = (*HEADS[name], NONE)
                for probability, index in zip(sure.tolist(), best.tolist(), strict=True):
                    answers[name].append(values[index] if probability >= THRESHOLD else NONE)
        return answers

    @torch.no_grad()
    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, 128, 128, 3) -> float32 (N, 256), a space in which to compare sets of images."""
        features: NDArray[np.float32] = (
            torch.cat([self.network.features(batch) for batch in self._batches(images)]).cpu().numpy()
        )
        return features

    def _batches(self, images: NDArray[np.uint8]) -> Iterator[Tensor]:
        if images.ndim != 4 or images.shape[1:] != (128, 128, 3):
            raise ValueError(f"the factor readers take images of 128 x 128, not {images.shape}")
        device = next(self.network.parameters()).device
        for batch in torch.split(torch.tensor(images), 64):
            yield to_float(batch.to(device))


def labels_of(scene: WorldScene) -> Labels:
    """The right answers for a scene."""
    return {name: scene.factors.get(name, NONE) for name in HEADS} | {"kind": scene.kind}
