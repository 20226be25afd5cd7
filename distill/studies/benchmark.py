"""Zero-shot edits against their true counterfactuals: every method at its own best setting (paper, sections 4 and 5).

Settings are swept on the development split, each method with the same number of network calls; what the sweep chooses
belongs into METHODS, and the benchmark then reports test and shifted scenes, with intervals from a bootstrap over the
same scenes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distill.edit import compose, working_pixels
from distill.examples import Example, drawn_examples
from distill.settings import EditSettings
from distill.studies.study import Row, Study, Unit, chart, from_png, scored, sheet, stacked, trajectory
from synth.miniature.readers import FactorReader
from synth.pixels import png_bytes, to_float, to_uint8
from synth.seeds import derive_seed
from synth.teacher import Teacher

EDITS: tuple[dict[str, str], ...] = (
    {"color": "red", "material": "leather"},
    {"color": "purple", "material": "velvet"},
    {"color": "blue"},
    {"flower": "tulips"},
    {"weather": "sunset"},
    {"character": "sculpture"},
)
CALLS = 800
"""Network calls that an optimisation may spend on a picture: 200 iterations of DDS, 400 of SDS."""
CALLS_OF = {"dds": 4, "sds": 2, "regularized-sds": 2}
"""Network calls of an iteration."""
_SHOWN = ("psnr_all", "psnr_inside", "psnr_outside_to_input", "ssim_all", "sharpness_inside", "right")


@dataclass(frozen=True)
class Optimized:
    """An optimisation, as `distill.edit` does it."""

    settings: EditSettings

    @property
    def calls(self) -> int:
        """Network calls a picture."""
        return self.settings.iterations * CALLS_OF[self.settings.method]

    def __call__(self, teacher: Teacher, examples: Sequence[Example]) -> list[NDArray[np.uint8]]:
        """The pictures edited, uint8 (H, W, 3) each."""
        last = self.settings.iterations
        return trajectory(teacher, examples, self.settings, [last])[last]


@dataclass(frozen=True)
class SDEdit:
    """Noise the picture part of the way, and paint on from there with the target text (Meng et al. 2022).

    diffusers' own image-to-image pipeline, and the same pixel-difference output as all others.
    """

    strength: float
    guidance_scale: float
    num_inference_steps: int = 50

    @property
    def calls(self) -> int:
        """Network calls a picture."""
        return 2 * int(self.strength * self.num_inference_steps)

    def __call__(self, teacher: Teacher, examples: Sequence[Example]) -> list[NDArray[np.uint8]]:
        """The pictures edited, uint8 (H, W, 3) each."""
        from diffusers import AutoPipelineForImage2Image

        pipeline: Any = AutoPipelineForImage2Image.from_pipe(teacher.pipeline)
        pipeline.set_progress_bar_config(disable=True)
        images = [example.picture for example in examples]
        x = working_pixels(teacher, images)
        seeds = [derive_seed("sdedit", place) for place in range(len(examples))]
        painted = pipeline(
            [example.prompt for example in examples],
            image=[Image.fromarray(pixels) for pixels in to_uint8(x)],
            strength=self.strength,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="latent",
        ).images
        z_hat = teacher.encode(x).float()
        return [np.asarray(picture) for picture in compose(teacher, images, x, z_hat, painted.float())]


@dataclass(frozen=True)
class DoNothing:
    """The input itself."""

    calls = 0

    def __call__(self, teacher: Teacher, examples: Sequence[Example]) -> list[NDArray[np.uint8]]:
        """As they came."""
        return [example.image for example in examples]


@dataclass(frozen=True)
class VAECeiling:
    """The truth through the teacher's VAE: what nothing that decodes a latent alone can be expected to pass."""

    calls = 0

    def __call__(self, teacher: Teacher, examples: Sequence[Example]) -> list[NDArray[np.uint8]]:
        """uint8 (H, W, 3) each."""
        truths = np.stack([example.truth for example in examples if example.truth is not None])
        return list(to_uint8(teacher.decode(teacher.encode(to_float(torch.from_numpy(truths))))))


Method = Optimized | SDEdit | DoNothing | VAECeiling


def _optimized(**values: Any) -> Optimized:
    settings = EditSettings(**values)
    return Optimized(settings.model_copy(update={"iterations": CALLS // CALLS_OF[settings.method]}))


GRIDS: Mapping[str, tuple[Method, ...]] = {
    "SDEdit": tuple(SDEdit(strength, omega) for strength, omega in product((0.4, 0.6, 0.8), (3.0, 7.5))),
    "SDS": tuple(
        _optimized(method="sds", learning_rate=rate, guidance_scale=omega)
        for rate, omega in product((0.5, 1.0, 2.0), (3.0, 7.5))
    ),
    "regularised SDS": tuple(
        _optimized(method="regularized-sds", learning_rate=2.0, guidance_scale=omega, lambda_id=weight)
        for weight, omega in product((0.1, 0.3, 1.0), (3.0, 7.5))
    ),
    "DDS, Adam": tuple(
        _optimized(optimizer="adam", learning_rate=rate, guidance_scale=omega)
        for rate, omega in product((0.25, 0.5, 1.0), (3.0, 7.5))
    ),
    "DDS": tuple(
        _optimized(learning_rate=rate, guidance_scale=omega) for rate, omega in product((1.0, 2.0), (2.0, 3.0, 4.5))
    ),
}
"""What the sweep tries for each method, six settings each."""


@dataclass(frozen=True)
class Sweep(Study):
    """Each method's settings, on development scenes."""

    num_scenes: int = 2
    name = "sweep"
    question = "At which settings does each method come nearest to the truth?"

    def units(self) -> list[Unit]:
        return [{"method": name, "place": place} for name, grid in GRIDS.items() for place in range(len(grid))]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        method = GRIDS[unit["method"]][unit["place"]]
        rows = _measured(teacher, unit["method"], method, "development", self.num_scenes)
        return [{**row, "place": unit["place"], "setting": describe(method)} for row in rows]

    def figure(self, rows: Sequence[Row]) -> Image.Image:
        def draw(axes: Any) -> None:
            for name in GRIDS:
                points = [_means(rows, method=name, setting=setting) for setting in _settings(rows, name)]
                kept, edited = ([p[figure] for p in points] for figure in ("psnr_outside_to_input", "psnr_inside"))
                axes.plot(kept, edited, "o", label=name)
            _label(axes)

        return chart(draw, 7, 4.6)

    def finding(self, rows: Sequence[Row]) -> str:
        said = []
        for name in GRIDS:
            best = max(_settings(rows, name), key=lambda s: _means(rows, method=name, setting=s)["psnr_all"])
            said.append(f"{name}: {best} ({_means(rows, method=name, setting=best)['psnr_all']:.2f} dB)")
        return f"Best by PSNR over all. {'; '.join(said)}."


@dataclass(frozen=True)
class Benchmark(Study):
    """The frozen methods, on scenes that no setting was chosen on."""

    methods: Mapping[str, Method]
    num_scenes: int = 8
    name = "benchmark"
    question = "How near do the methods come to the truth, and what do they leave alone?"

    def units(self) -> list[Unit]:
        return [{"method": name, "split": split} for split in ("test", "shifted") for name in self.methods]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        return _measured(teacher, unit["method"], self.methods[unit["method"]], unit["split"], self.num_scenes)

    def figure(self, rows: Sequence[Row]) -> Image.Image:
        names = list(self.methods)
        lines = []
        for edit in dict.fromkeys(row["edit"] for row in rows):
            cells = [
                next(r for r in rows if (r["method"], r["split"], r["edit"], r["scene"]) == (name, "test", edit, 0))
                for name in names
            ]
            lines.append((edit, [(from_png(c["png"]), f"{c['psnr_all']:.1f} dB") for c in cells]))

        def draw(axes: Any) -> None:
            for name in names:
                means = _means(rows, method=name, split="test")
                axes.plot(means["psnr_outside_to_input"], means["right"], "o", label=name)
            axes.set_xlabel("kept: PSNR to the input outside the mask, dB")
            axes.set_ylabel("edited: share whose factor reads right")
            axes.legend(fontsize=7)

        return stacked([sheet(names, lines), chart(draw, 7, 4.6)])

    def finding(self, rows: Sequence[Row]) -> str:
        others = [name for name, method in self.methods.items() if isinstance(method, Optimized) and name != "DDS"]
        lines = ["DDS less each other method, with 95 % intervals:"]
        for split, other in product(("test", "shifted"), others):
            said = []
            for figure, unit in (("psnr_all", "dB"), ("psnr_outside_to_input", "dB outside"), ("ssim_all", "SSIM")):
                mean, low, high = paired_difference(rows, "DDS", other, split, figure)
                said.append(f"{mean:+.2f} {unit} ({low:+.2f} to {high:+.2f})")
            lines.append(f"{split}, {other}: {', '.join(said)}")
        return "\n".join(lines)


def describe(method: Method) -> str:
    """A setting in a few words."""
    if isinstance(method, SDEdit):
        return f"strength {method.strength:g}, omega {method.guidance_scale:g}"
    if isinstance(method, Optimized):
        s = method.settings
        weight = f", lambda_id {s.lambda_id:g}" if s.method == "regularized-sds" else ""
        return f"rate {s.learning_rate:g}, omega {s.guidance_scale:g}{weight}, {s.iterations} iterations"
    return ""


def table(rows: Sequence[Row], methods: Mapping[str, Method], split: str) -> str:
    """Means over edits and scenes as a Markdown table."""
    header = ["method", "setting", "calls", *(figure.replace("_", " ") for figure in _SHOWN), "s an image"]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * 2}{'---:|' * (len(header) - 2)}"]
    for name, method in methods.items():
        means = _means(rows, method=name, split=split)
        cells = [name, describe(method), str(method.calls), *(f"{means[key]:.2f}" for key in (*_SHOWN, "seconds"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def paired_difference(
    rows: Sequence[Row], one: str, other: str, split: str, figure: str
) -> tuple[float, float, float]:
    """The mean difference of two methods over the same edits of the same scenes, and its 95 % bootstrap interval."""
    values = {
        name: {
            (row["edit"], row["scene"]): row[figure]
            for row in rows
            if (row["method"], row["split"]) == (name, split)
            and row.get(figure) is not None  # weather has no outside
        }
        for name in (one, other)
    }
    differences = np.array([values[one][key] - values[other][key] for key in values[one]])
    draws = np.random.default_rng(0).integers(0, len(differences), (2000, len(differences)))
    low, high = np.quantile(differences[draws].mean(axis=1), (0.025, 0.975))
    return float(differences.mean()), float(low), float(high)


def _measured(teacher: Teacher, name: str, method: Method, split: str, num_scenes: int) -> list[Row]:
    reader = FactorReader.load()
    examples = [example for factors in EDITS for example in drawn_examples(factors, num_scenes, split)]
    started = perf_counter()
    pictures = method(teacher, examples)  # all edits at once: a network call costs least in a large batch
    seconds = (perf_counter() - started) / len(examples)
    rows: list[Row] = []
    for place, (example, picture) in enumerate(zip(examples, pictures, strict=True)):
        scene = place % num_scenes  # of its edit
        figures = {"calls": method.calls, "seconds": seconds, **scored(picture, example, reader)}
        png = png_bytes(Image.fromarray(picture))
        rows.append({"method": name, "split": split, "edit": example.edit, "scene": scene, **figures, "png": png})
    return rows


def _settings(rows: Sequence[Row], name: str) -> list[str]:
    return list(dict.fromkeys(row["setting"] for row in rows if row["method"] == name))


def _means(rows: Sequence[Row], **which: str) -> dict[str, float]:
    chosen = [row for row in rows if all(row[key] == value for key, value in which.items())]
    means = {}
    for figure in (*_SHOWN, "seconds"):
        known = [row[figure] for row in chosen if row.get(figure) is not None]  # weather has no outside everywhere
        means[figure] = float(np.mean(known)) if known else float("nan")
    return means


def _label(axes: Any) -> None:
    axes.set_xlabel("kept: PSNR to the input outside the mask, dB")
    axes.set_ylabel("edited: PSNR to the truth inside, dB")
    axes.legend(fontsize=8)


METHODS: Mapping[str, Method] = {
    "do nothing": DoNothing(),
    "VAE ceiling": VAECeiling(),
    "SDEdit 0.4": SDEdit(0.4, 7.5),
    "SDEdit 0.6": SDEdit(0.6, 3.0),
    "SDEdit 0.8": SDEdit(0.8, 3.0),
    "SDS": _optimized(method="sds", learning_rate=2.0, guidance_scale=7.5),
    "regularised SDS": _optimized(method="regularized-sds", learning_rate=2.0, guidance_scale=7.5, lambda_id=0.1),
    "DDS, Adam": _optimized(optimizer="adam", learning_rate=1.0, guidance_scale=7.5),
    "DDS as published": _optimized(learning_rate=2.0, guidance_scale=7.5),
    "DDS": _optimized(learning_rate=2.0, guidance_scale=3.0),
}
"""Each method at its grid's best by PSNR over all, as the sweep found it on the shipped miniature."""
