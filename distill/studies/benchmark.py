"""Zero-shot edits against their true counterfactuals: every method at its own best setting (paper, sections 4 and 5).

The sweep chooses settings on the development split, with the same number of network calls for each method; what it
chooses is written into METHODS. The benchmark reports test and shifted scenes, with intervals from a bootstrap over
the same scenes. Each edit is measured twice: as its latents decode, which is how methods are published, and as a
change that is laid onto the image, so that no method gains or loses by the composition of another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from time import perf_counter
from typing import Any

from PIL import Image

from distill.evaluation.examples import drawn_examples
from distill.evaluation.grids import GridRow, labelled_grid, stacked
from distill.studies.methods import GRIDS, OURS, Method, Optimized, describe
from distill.studies.plots import chart
from distill.studies.rows import mean, paired_difference
from distill.studies.study import Row, Study, Unit, measure_example
from synth.images.encoding import decode_rgb, png_bytes
from synth.teacher.teacher import Teacher
from synth.world.readers import FactorReader

EDITS: tuple[dict[str, str], ...] = (
    {"color": "red", "material": "leather"},
    {"color": "purple", "material": "velvet"},
    {"color": "blue"},
    {"flower": "tulips"},
    {"weather": "sunset"},
    {"character": "sculpture"},
)
DECODED, COMPOSED = "decoded", "composed"
"""How latents became an image: see `distill.studies.methods.Edits`."""
_SHOWN = {
    DECODED: ("psnr_all", "psnr_outside_to_input", "ssim_all", "right"),
    COMPOSED: ("psnr_all", "psnr_inside", "psnr_outside_to_input", "ssim_all", "sharpness_inside", "right"),
}


@dataclass(frozen=True)
class Sweep(Study):
    """Each method's settings, on development scenes."""

    num_scenes: int = 2
    name = "sweep"
    question = "At which settings does each method come nearest to the truth?"

    def units(self) -> list[Unit]:
        return [
            {"method": name, "place": place, "setting": describe(method)}
            for name, grid in GRIDS.items()
            for place, method in enumerate(grid)
        ]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        method = GRIDS[unit["method"]][unit["place"]]
        rows = _measured(teacher, unit["method"], method, "development", self.num_scenes)
        return [{**row, "place": unit["place"], "setting": describe(method)} for row in rows]

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        def draw(axes: Any) -> None:
            for name in GRIDS:
                points = [_means(rows, COMPOSED, method=name, setting=one) for one in _settings(rows, name)]
                kept = [point["psnr_outside_to_input"] for point in points]
                edited = [point["psnr_inside"] for point in points]
                axes.plot(kept, edited, "o", label=name)
            axes.set_xlabel("kept: PSNR to the input outside the mask, dB")
            axes.set_ylabel("edited: PSNR to the truth inside, dB")
            axes.legend(fontsize=8)

        return chart(draw, 7, 4.6)

    def finding(self, rows: Sequence[Row]) -> str:
        best_settings = []
        for name in GRIDS:
            psnr = {
                one: _means(rows, COMPOSED, method=name, setting=one)["psnr_all"] for one in _settings(rows, name)
            }
            best = max(psnr, key=psnr.__getitem__)
            best_settings.append(f"{name}: {best} ({psnr[best]:.2f} dB)")
        return f"Best by PSNR over all, each change laid onto its image. {'; '.join(best_settings)}."


@dataclass(frozen=True)
class Benchmark(Study):
    """The methods at their chosen settings, on scenes that no setting was chosen on."""

    methods: Mapping[str, Method]
    num_scenes: int = 8
    name = "benchmark"
    question = "How near do the methods come to the truth, and how much of the rest do they keep?"

    def units(self) -> list[Unit]:
        return [
            {"method": name, "split": split, "setting": describe(method)}
            for split in ("test", "shifted")
            for name, method in self.methods.items()
        ]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        return _measured(teacher, unit["method"], self.methods[unit["method"]], unit["split"], self.num_scenes)

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        names = list(self.methods)
        grid_rows = []
        for edit in dict.fromkeys(row["edit"] for row in rows):
            place = {"split": "test", "composition": COMPOSED, "edit": edit, "scene": 0}
            cells = [next(row for row in rows if row.items() >= {**place, "method": name}.items()) for name in names]
            captions = [f"{cell['psnr_all']:.1f} dB" for cell in cells]
            grid_rows.append(GridRow(edit, [decode_rgb(cell["png"]) for cell in cells], captions))

        def draw(axes: Any) -> None:
            for place, name in enumerate(names):
                means = _means(rows, COMPOSED, method=name, split="test")
                marker = "o" if place < 10 else "*"  # matplotlib has ten colours
                axes.plot(means["psnr_outside_to_input"], means["right"], marker, label=name)
            axes.set_xlabel("kept: PSNR to the input outside the mask, dB")
            axes.set_ylabel("edited: share whose factor reads right")
            axes.legend(fontsize=7)

        return stacked([labelled_grid(names, grid_rows), chart(draw, 7, 4.6)])

    def finding(self, rows: Sequence[Row]) -> str:
        optimized = [name for name, method in self.methods.items() if isinstance(method, Optimized)]
        ours = [name for name in ("DDS", OURS) if name in optimized]
        pairs = [(one, other) for one in ours for other in optimized[: optimized.index(one)]]
        lines = ["What one gains over another, with 95 % intervals:"]
        for split, composition, (one, other) in product(("test", "shifted"), (DECODED, COMPOSED), pairs):
            compared = [row for row in rows if row["composition"] == composition]
            lines.append(f"{split}, {composition}, {one} over {other}: {_gains(compared, one, other, split)}")
        for split, name in product(("test", "shifted"), self.methods):
            # The two compositions of one method, as if they were two methods.
            compared = [{**row, "method": row["composition"]} for row in rows if row["method"] == name]
            lines.append(f"{split}, {name}, {COMPOSED} over {DECODED}: {_gains(compared, COMPOSED, DECODED, split)}")
        return "\n".join(lines)


def table(rows: Sequence[Row], methods: Mapping[str, Method], split: str) -> str:
    """Format the means over edits and scenes as a Markdown table."""
    metrics = [
        f"{composition}: {metric.replace('_', ' ')}" for composition in _SHOWN for metric in _SHOWN[composition]
    ]
    header = ["method", "setting", "calls", *metrics, "s an image"]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * 2}{'---:|' * (len(header) - 2)}"]
    for name, method in methods.items():
        means = [_means(rows, composition, method=name, split=split) for composition in _SHOWN]
        shown = [one[key] for one, composition in zip(means, _SHOWN, strict=True) for key in _SHOWN[composition]]
        figures = [*shown, means[-1]["seconds"]]
        cells = [name, describe(method), str(method.calls), *(f"{figure:.2f}" for figure in figures)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _measured(teacher: Teacher, name: str, method: Method, split: str, num_scenes: int) -> list[Row]:
    reader = FactorReader.load()
    examples = [example for factors in EDITS for example in drawn_examples(factors, num_scenes, split)]
    started = perf_counter()
    edits = method.edit(teacher, examples)  # all edits at once: a network call costs least in a large batch
    composed = edits.composed()
    seconds = (perf_counter() - started) / len(examples)
    rows: list[Row] = []
    for composition, images in ((DECODED, edits.decoded()), (COMPOSED, composed)):
        common = {
            "method": name,
            "composition": composition,
            "split": split,
            "calls": method.calls,
            "seconds": seconds,
        }
        for place, (example, image) in enumerate(zip(examples, images, strict=True)):
            scene = place % num_scenes  # of its edit
            metrics = measure_example(image, example, reader)
            png = png_bytes(Image.fromarray(image))
            rows.append({**common, "edit": example.edit, "scene": scene, **metrics, "png": png})
    return rows


def _gains(rows: Sequence[Row], one: str, other: str, split: str) -> str:
    gains = []
    for metric, unit in (("psnr_all", "dB"), ("psnr_outside_to_input", "dB outside"), ("ssim_all", "SSIM")):
        gain, low, high = paired_difference(rows, one, other, split, metric)
        gains.append(f"{gain:+.2f} {unit} ({low:+.2f} to {high:+.2f})")
    return ", ".join(gains)


def _settings(rows: Sequence[Row], name: str) -> list[str]:
    return list(dict.fromkeys(row["setting"] for row in rows if row["method"] == name))


def _means(rows: Sequence[Row], composition: str, **where: Any) -> dict[str, float]:
    return {metric: mean(rows, metric, composition=composition, **where) for metric in (*_SHOWN[COMPOSED], "seconds")}
