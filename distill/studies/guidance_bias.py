"""Is the bias of the reference branch that of the edited one? (paper, section 4 and figure 8; supplement, figure 1)

SDS points along delta_text + delta_bias (Eq. 4). If an image already fits its text, delta_text is about
nothing, and what SDS still says is bias. DDS takes the difference of two such directions, which helps as far as their
biases agree.

    matched      SDS(z, y) and SDS(z_hat, y_hat): an image and its counterfactual, each with the text that fits it
    mismatched   SDS(z, y') and SDS(z_hat, y_hat): the counterfactual with a text about something else
    text only    only the guided term, eps_y - eps_null, of the matched pair

all with the same t and eps. What is measured is the cosine similarity of the directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distill.evaluation.examples import drawn_examples
from distill.scores import sds
from distill.studies.plots import chart
from distill.studies.rows import mean
from distill.studies.study import Row, Study, Unit
from synth.pixels import to_float
from synth.seeds import derive_seed
from synth.teacher.teacher import Teacher

OMEGAS = (1.0, 3.0, 7.5, 15.0, 25.0)
TIMESTEPS = tuple(range(50, 951, 100))
EDITS = (
    ({"color": "red", "material": "leather"}, "a photo of tulips in a blue pot in a garden"),
    ({"flower": "roses"}, "a photo of a sculpture with long hair"),
    ({"character": "zombie"}, "a green velvet sofa in a living room"),
)


@dataclass(frozen=True)
class GuidanceBias(Study):
    """The cosines over timesteps, for growing guidance."""

    num_scenes: int = 8
    name = "guidance-bias"
    question = "Do the biases of matched pairs agree, and does guidance drive them apart?"

    def units(self) -> list[Unit]:
        return [{"edit": edit, "t": t} for edit in range(len(EDITS)) for t in TIMESTEPS]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        factors, elsewhere = EDITS[unit["edit"]]
        examples = drawn_examples(factors, self.num_scenes, "development")
        z_hat = _encode(teacher, [example.image for example in examples])  # (N, C, h, w)
        z = _encode(teacher, [example.truth for example in examples if example.truth is not None])  # (N, C, h, w)
        y_hat = teacher.encode_prompt([example.source_prompt for example in examples])
        y = teacher.encode_prompt([example.prompt for example in examples])
        y_other = teacher.encode_prompt([elsewhere] * len(examples))
        generator = torch.Generator().manual_seed(derive_seed("guidance-bias", unit["edit"], unit["t"]))
        eps = torch.randn(z.shape, generator=generator).to(z)  # (N, C, h, w)
        t = torch.full((len(z),), unit["t"], device=z.device)  # (N,)
        rows = []
        # Guidance scales this direction and does not turn it: once for all omegas.
        text_only = _cosine(_text_direction(teacher, z, y, t, eps), _text_direction(teacher, z_hat, y_hat, t, eps))
        for omega in OMEGAS:
            reference = sds(teacher, z_hat, y_hat, t, eps, omega)
            pairs = {
                "matched": _cosine(sds(teacher, z, y, t, eps, omega), reference),
                "mismatched": _cosine(sds(teacher, z, y_other, t, eps, omega), reference),
                "text only": text_only,
            }
            rows += [
                {"edit": unit["edit"], "t": unit["t"], "omega": omega, "pair": pair, "scene": scene, "cosine": cosine}
                for pair, cosines in pairs.items()
                for scene, cosine in enumerate(cosines.tolist())
            ]
        return rows

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        def draw(axes: Any) -> None:
            for shade, omega in zip(np.linspace(0.35, 1, len(OMEGAS)), OMEGAS, strict=True):
                for pair, color in (("matched", "tab:blue"), ("mismatched", "tab:orange")):
                    means = [mean(rows, "cosine", pair=pair, omega=omega, t=t) for t in TIMESTEPS]
                    axes.plot(TIMESTEPS, means, color=color, alpha=shade, label=f"{pair}, omega {omega:g}")
            means = [mean(rows, "cosine", pair="text only", t=t) for t in TIMESTEPS]
            axes.plot(TIMESTEPS, means, "k--", label="text only")
            axes.set_xlabel("timestep t")
            axes.set_ylabel("cosine similarity of SDS directions")
            axes.legend(fontsize=7, ncols=2)

        return chart(draw, 7.2, 4.6)

    def finding(self, rows: Sequence[Row]) -> str:
        pairs = [
            f"{pair}: "
            + ", ".join(
                f"{np.mean([mean(rows, 'cosine', pair=pair, omega=omega, t=t) for t in TIMESTEPS]):.2f}"
                for omega in OMEGAS
            )
            for pair in ("matched", "mismatched")
        ]
        omegas = ", ".join(f"{omega:g}" for omega in OMEGAS)
        text_only = np.mean([mean(rows, "cosine", pair="text only", t=t) for t in TIMESTEPS])
        return f"Mean cosine over timesteps at omega {omegas}: {'; '.join(pairs)}; text only: {text_only:.2f}."


def _encode(teacher: Teacher, images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """N images, uint8 (H, W, 3) -> their latents, float (N, C, h, w)."""
    return teacher.encode(to_float(torch.from_numpy(np.stack(images)))).float()


def _text_direction(teacher: Teacher, z: Tensor, y: Any, t: Tensor, eps: Tensor) -> Tensor:
    """eps_y - eps_null, (N, C, h, w): as guidance is linear, the prediction at omega 2 minus that at omega 1."""
    z_t = teacher.add_noise(z, eps, t)  # (N, C, h, w)
    return teacher.predict_noise(z_t, t, y, 2.0) - teacher.predict_noise(z_t, t, y, 1.0)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """(N, ...) and (N, ...) -> (N,)."""
    return torch.nn.functional.cosine_similarity(a.flatten(1).float(), b.flatten(1).float())
