"""Factor readers: what does a picture show? A small network with one head for each factor of the drawn world.

Strict on purpose. Every head may answer "none of these" (`NONE`), and is trained to do so on pictures that stand
half-way between two values: a sofa that is neither red nor orange is no red sofa. The readers measure; they never
take part in the training of a student, nor in choosing what it is trained on.
"""

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from synth.miniature.world import FACTORS, MASK_OF, WorldScene, render, sample_scene
from synth.pixels import to_float, to_uint8
from synth.seeds import derive_seed

NONE = "?"
THRESHOLD = 0.6  # an answer that is less sure than this is "none of these"
WEIGHTS = Path(__file__).parent / "weights" / "reader"
HEADS: dict[str, tuple[str, ...]] = {
    "kind": tuple(FACTORS),
    **{factor: values for factors in FACTORS.values() for factor, values in factors.items()},
}
Labels = dict[str, str]


class FactorNetwork(nn.Module):
    """(N, 3, 128, 128) in [-1, 1] -> for each head, logits (N, values + 1); the last stands for "none of these"."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 48, 64, 96, 128)
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)  # (N, 128, 4, 4)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(2 * widths[-1], len(values) + 1) for name, values in HEADS.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """One logit for each value of each factor."""
        maps = self.trunk(images)
        pooled = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)  # (N, 256)
        return {name: head(pooled) for name, head in self.heads.items()}


class FactorReader:
    """Reads factors off pictures of 128 x 128.

    >>> FactorReader.load().read(images)["color"]  # doctest: +SKIP
    ['red', '?', 'blue']
    """

    def __init__(self, network: FactorNetwork) -> None:
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path = WEIGHTS) -> "FactorReader":
        """From `reader.safetensors` in a folder, in float32."""
        network = FactorNetwork()
        weights = load_file(folder / "reader.safetensors")
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        return cls(network)

    def save(self, folder: Path) -> None:
        """Write `reader.safetensors`, in float16."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.network.state_dict()
        half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        save_file({key: value.cpu().contiguous() for key, value in half.items()}, folder / "reader.safetensors.part")
        os.replace(folder / "reader.safetensors.part", folder / "reader.safetensors")

    @torch.no_grad()
    def read(self, images: NDArray[np.uint8]) -> dict[str, list[str]]:
        """Each factor's value in each picture, or `NONE`.

        Args:
            images: uint8 (N, 128, 128, 3).

        Raises:
            ValueError: for pictures of another size; the readers know this one alone.
        """
        if images.ndim != 4 or images.shape[1:] != (128, 128, 3):
            raise ValueError(f"the factor readers take pictures of 128 x 128, not {images.shape}")
        device = next(self.network.parameters()).device
        answers: dict[str, list[str]] = {name: [] for name in HEADS}
        for part in torch.split(torch.from_numpy(np.ascontiguousarray(images)), 64):
            for name, logits in self.network(to_float(part.to(device))).items():
                sure, best = logits.float().softmax(dim=1).max(dim=1)
                values = (*HEADS[name], NONE)
                for probability, index in zip(sure.tolist(), best.tolist(), strict=True):
                    answers[name].append(values[index] if probability >= THRESHOLD else NONE)
        return answers


def labels_of(scene: WorldScene) -> Labels:
    """What a reader ought to say of a scene."""
    return {name: scene.factors.get(name, NONE) for name in HEADS} | {"kind": scene.kind}


def pair(split: str, index: int) -> tuple[WorldScene, WorldScene, str]:
    """A scene, its counterfactual under one edit factor, and that factor; pure."""
    scene = sample_scene(split, index)
    rng = np.random.default_rng(derive_seed("reader", split, index))
    factor = rng.choice([name for name in scene.factors if name in MASK_OF])
    others = [value for value in FACTORS[scene.kind][factor] if value != scene.factors[factor]]
    return scene, scene.replace(**{str(factor): str(rng.choice(others))}), str(factor)


def train_reader(out: Path, minutes: float, device: str, num_pairs: int = 40_000, batch_size: int = 256) -> None:
    """Train on drawn scenes of the train split, blurred, reconstructed and blended; save to `out/reader`.

    Args:
        out: where the VAE's checkpoint is.
        minutes: of training; drawing and reconstructing come before.
        device: where.
        num_pairs: scenes, each with one counterfactual; a third of them are also seen through the VAE.
        batch_size: pictures a step.
    """
    from synth.miniature import models
    from synth.miniature.train import averaged_network

    target = torch.device(device)
    with ProcessPoolExecutor() as pool:
        drawn = [item for part in pool.map(_draw_pairs, range(0, num_pairs, 250)) for item in part]
    images = torch.from_numpy(np.stack([item[0] for item in drawn]))  # (P, 2, 128, 128, 3)
    wanted = {name: torch.tensor([item[1][name] for item in drawn]) for name in HEADS}  # (P, 3)
    vae = averaged_network(out, "vae", "vae", models.build_vae()).to(target)
    through_vae = _reconstruct(vae, images[: num_pairs // 3].flatten(0, 1)).view(-1, 2, *images.shape[2:])
    images = torch.cat([images, through_vae]).to(target)
    wanted = {name: torch.cat([each, each[: num_pairs // 3]]).to(target) for name, each in wanted.items()}
    network = FactorNetwork().to(target)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    started, step = time.time(), 0
    while (done := (time.time() - started) / 60 / minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100) * (1 - done)
        generator = torch.Generator(target).manual_seed(derive_seed("reader", step))
        chosen = torch.randint(len(images), (batch_size,), generator=generator, device=target)
        role = torch.randint(3, (batch_size,), generator=generator, device=target)  # the one, the other, between
        amount = torch.rand((batch_size,), generator=generator, device=target) * 0.4 + 0.3
        amount = torch.where(role == 2, amount, role.float())[:, None, None, None]
        x = to_float(images[chosen, 0]) * (1 - amount) + to_float(images[chosen, 1]) * amount
        logits = network(_disturb(x, generator))
        loss = sum(
            (F.cross_entropy(logits[name], wanted[name][chosen, role]) for name in HEADS),
            torch.zeros(()).to(x),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        if step % 50 == 0:
            print(json.dumps({"stage": "reader", "step": step, "loss": round(float(loss), 4)}), flush=True)
    reader = FactorReader(network)
    reader.save(out / "reader")
    print(json.dumps(accuracy(reader, vae, 1000), indent=1), flush=True)


def accuracy(reader: FactorReader, vae: Any, num: int) -> dict[str, dict[str, float]]:
    """The share of right answers on unseen drawn scenes, the same blurred and through the VAE, and, on half-way
    blends, the share of "none of these" for the factor that was blended."""
    pairs = [pair("development", index) for index in range(num)]
    first = np.stack([render(scene).image for scene, _, _ in pairs])
    second = np.stack([render(other).image for _, other, _ in pairs])
    device = next(reader.network.parameters()).device
    x = to_float(torch.from_numpy(first).to(device))
    again = to_float(_reconstruct(vae, torch.from_numpy(first)).to(device))
    halves = ((first.astype(np.uint16) + second) // 2).astype(np.uint8)
    table: dict[str, dict[str, float]] = {}
    for name, shown in (("drawn", x), ("blurred", _blur(x, 1.0)), ("reconstructed", again)):
        answers = reader.read(to_uint8(shown))
        table[name] = {}
        for factor in HEADS:
            right = [
                answer == labels_of(scene)[factor]
                for answer, (scene, _, _) in zip(answers[factor], pairs, strict=True)
                if labels_of(scene)[factor] != NONE
            ]
            table[name][factor] = round(float(np.mean(right)), 4)
    answers = reader.read(halves)
    table["half-way: none of these"] = {
        factor: round(float(np.mean([answers[factor][i] == NONE for i, p in enumerate(pairs) if p[2] == factor])), 4)
        for factor in MASK_OF
    }
    return table


def _draw_pairs(start: int) -> list[tuple[NDArray[np.uint8], dict[str, list[int]]]]:
    drawn = []
    for index in range(start, start + 250):
        scene, other, factor = pair("train", index)
        between = labels_of(scene) | {factor: NONE}
        said = [labels_of(scene), labels_of(other), between]
        numbers = {name: [(*HEADS[name], NONE).index(label[name]) for label in said] for name in HEADS}
        drawn.append((np.stack([render(scene).image, render(other).image]), numbers))
    return drawn


@torch.no_grad()
def _reconstruct(vae: Any, images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) through the VAE's encoder and decoder."""
    parts = []
    for part in tqdm(torch.split(images, 32), desc="reconstructing", leave=False):
        x = to_float(part.to(vae.device))
        parts.append(torch.from_numpy(to_uint8(vae.decode(vae.encode(x).latent_dist.mode()).sample)))
    return torch.cat(parts)


def _disturb(x: Tensor, generator: torch.Generator) -> Tensor:
    """What may happen to a picture without changing what it shows."""
    with torch.no_grad():
        draws = torch.rand((4,), generator=generator, device=x.device).tolist()
        if draws[0] < 0.6:
            x = _blur(x, 0.3 + 1.2 * draws[1])
        shape = (len(x), 3, 1, 1)
        x = x * (1 + 0.05 * torch.randn(shape, generator=generator, device=x.device))
        x = x + 0.03 * torch.randn(shape, generator=generator, device=x.device)
        x = x + 0.04 * draws[2] * torch.randn(x.shape, generator=generator, device=x.device)
    return x.clamp(-1, 1)


def _blur(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur; `sigma` in pixels."""
    reach = torch.arange(-4, 5, device=x.device, dtype=x.dtype)
    kernel = (-(reach**2) / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum()).repeat(3, 1)  # (3, 9)
    x = F.conv2d(F.pad(x, (4, 4, 0, 0), mode="replicate"), kernel[:, None, None, :], groups=3)
    return F.conv2d(F.pad(x, (0, 0, 4, 4), mode="replicate"), kernel[:, None, :, None], groups=3)
