"""SDS held back by an L2 term: fidelity to the text against fidelity to the image (supplement, figure 4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from distill.evaluation.examples import drawn_examples
from distill.evaluation.grids import GridRow, labelled_grid, stacked
from distill.settings import EditSettings
from distill.studies.plots import chart
from distill.studies.rows import mean
from distill.studies.study import Row, Study, Unit, measure_example, trajectory
from synth.images.encoding import decode_rgb, png_bytes
from synth.teacher.teacher import Teacher
from synth.world.readers import FactorReader

WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0)
EDIT = {"color": "red", "material": "leather"}


@dataclass(frozen=True)
class RegularizedSDS(Study):
    """A sweep of lambda_id, beside DDS."""

    settings: EditSettings
    num_scenes: int = 8
    name = "regularized-sds"
    question = "Can an L2 term give SDS what DDS has?"

    def units(self) -> list[Unit]:
        return [{"lambda_id": weight} for weight in WEIGHTS] + [{"lambda_id": None}]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        weight = unit["lambda_id"]
        method = {"method": "dds"} if weight is None else {"method": "regularized-sds", "lambda_id": weight}
        settings = self.settings.model_copy(update=method)
        examples = drawn_examples(EDIT, self.num_scenes, "development")
        images = trajectory(teacher, examples, settings, [settings.iterations])[settings.iterations]
        reader = FactorReader.load()
        return [
            {
                "method": "DDS" if weight is None else f"SDS, weight {weight:g}",
                "lambda_id": weight,
                "scene": place,
                **measure_example(images[place], example, reader),
                "png": png_bytes(Image.fromarray(images[place])),
            }
            for place, example in enumerate(examples)
        ]

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        grid_rows = []
        for method in dict.fromkeys(row["method"] for row in rows):
            cells = [row for row in rows if row["method"] == method][:5]
            captions = [f"{cell['psnr_inside']:.1f} in, {cell['psnr_outside_to_input']:.1f} out" for cell in cells]
            grid_rows.append(GridRow(method, [decode_rgb(cell["png"]) for cell in cells], captions))

        def draw(axes: Any) -> None:
            sds = [_means(rows, f"SDS, weight {weight:g}") for weight in WEIGHTS]
            kept = [point["psnr_outside_to_input"] for point in sds]
            edited = [point["psnr_inside"] for point in sds]
            axes.plot(kept, edited, "o-", label="SDS")
            for weight, point in zip(WEIGHTS, sds, strict=True):
                axes.annotate(f"{weight:g}", (point["psnr_outside_to_input"], point["psnr_inside"]))
            dds = _means(rows, "DDS")
            axes.plot(dds["psnr_outside_to_input"], dds["psnr_inside"], "s", color="crimson", label="DDS")
            axes.set_xlabel("kept: PSNR to the input outside the sofa, dB")
            axes.set_ylabel("edited: PSNR to the truth inside, dB")
            axes.legend()

        return stacked([labelled_grid([f"room {place}" for place in range(1, 6)], grid_rows), chart(draw)])

    def finding(self, rows: Sequence[Row]) -> str:
        dds = _means(rows, "DDS")
        best = max(WEIGHTS, key=lambda weight: _means(rows, f"SDS, weight {weight:g}")["psnr_all"])
        sds = _means(rows, f"SDS, weight {best:g}")

        def summary(m: dict[str, float]) -> str:
            return (
                f"{m['psnr_inside']:.1f} dB inside, {m['psnr_outside_to_input']:.1f} dB to the input outside, "
                f"sharpness {m['sharpness_inside']:.2f}, factor right {m['right']:.0%}"
            )

        return f"DDS: {summary(dds)}. The best weight by PSNR over all, {best:g}: {summary(sds)}."


def _means(rows: Sequence[Row], method: str) -> dict[str, float]:
    metrics = ("psnr_all", "psnr_inside", "psnr_outside_to_input", "sharpness_inside", "right")
    return {metric: mean(rows, metric, method=method) for metric in metrics}
