"""SGD against Adam, and against SDS: where does an iteration change the image? (supplement, figure 3)"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distill.evaluation.examples import Example, drawn_examples
from distill.evaluation.grids import GridRow, labelled_grid
from distill.optimization import Progress
from distill.settings import EditSettings
from distill.studies.plots import heat_map
from distill.studies.study import Row, Study, Unit, edit_examples
from synth.images.encoding import decode_rgb, png_bytes
from synth.teacher.teacher import Teacher

METHODS = {"DDS, SGD": ("dds", "sgd"), "DDS, Adam": ("dds", "adam"), "SDS, SGD": ("sds", "sgd")}
EDIT = {"color": "red", "material": "leather"}
_GREEN = (40, 160, 70)  # the paper's colors: green to red for a step,
_BLUE = (40, 80, 200)  # blue to red for the sum


@dataclass(frozen=True)
class Optimizer(Study):
    """The latent's update in single iterations, and its whole change since the input."""

    settings: EditSettings
    num_scenes: int = 3
    at: tuple[int, ...] = (10, 50, 100, 200)
    """Iterations to look at."""
    name = "optimizer"
    question = "Does Adam change what the prompt did not ask for?"

    def units(self) -> list[Unit]:
        return [{"method": method} for method in METHODS]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        method, optimizer = METHODS[unit["method"]]
        settings = self.settings.model_copy(
            update={"method": method, "optimizer": optimizer, "iterations": max(self.at)}
        )
        examples = drawn_examples(EDIT, self.num_scenes, "development")
        last: Tensor | None = None
        rows: list[Row] = []

        # Updates are between neighbouring iterations, so that the latents of each are remembered for the next.
        def record(progress: Progress) -> None:
            nonlocal last
            if progress.iteration in self.at:
                before = progress.source_latents if last is None else last
                update = (progress.latents - before).norm(dim=1)  # (N, h, w)
                moved = (progress.latents - progress.source_latents).norm(dim=1)  # (N, h, w)
                images = progress.images()
                for place, example in enumerate(examples):
                    rows.append(
                        {
                            "method": unit["method"],
                            "scene": place,
                            "iterations": progress.iteration,
                            "shape": list(update.shape[1:]),
                            "update": update[place].flatten().tolist(),
                            "moved": moved[place].flatten().tolist(),
                            "update_inside": _share_inside(update[place].cpu().numpy(), example),
                            "moved_inside": _share_inside(moved[place].cpu().numpy(), example),
                            "png": png_bytes(images[place]),
                        }
                    )
            last = progress.latents.clone()  # the next iteration overwrites them

        edit_examples(teacher, examples, settings, record)
        return rows

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        grid_rows = []
        for method in METHODS:
            cells = [row for row in rows if (row["method"], row["scene"]) == (method, 0)]
            grid_rows.append(GridRow(method, [decode_rgb(cell["png"]) for cell in cells]))
            for kind, low, title in (("update", _GREEN, "this iteration"), ("moved", _BLUE, "since the input")):
                highest = max(max(cell[kind]) for cell in cells)
                maps = [Image.fromarray(heat_map(cell[kind], cell["shape"], low, highest)) for cell in cells]
                shares = [f"{cell[f'{kind}_inside']:.0%} inside the sofa" for cell in cells]
                grid_rows.append(GridRow(title, maps, shares))
        return labelled_grid([f"iteration {at}" for at in self.at], grid_rows)

    def finding(self, rows: Sequence[Row]) -> str:
        shares = {
            method: float(
                np.mean([r["moved_inside"] for r in rows if (r["method"], r["iterations"]) == (method, max(self.at))])
            )
            for method in METHODS
        }
        listed = ", ".join(f"{method} {share:.0%}" for method, share in shares.items())
        return (
            f"Share of the latent's change after {max(self.at)} iterations (squared norm) inside the sofa: {listed}."
        )


def _share_inside(norms: NDArray[np.float32], example: Example) -> float:
    """The share of the squared norms, (h, w), in cells of the latent that the mask touches."""
    assert example.mask is not None
    mask = Image.fromarray(example.mask.astype(np.float32))
    cells = np.asarray(mask.resize(norms.shape[::-1], Image.Resampling.BOX)) > 0  # (h, w)
    energy = norms.astype(np.float64) ** 2
    return float(energy[cells].sum() / max(energy.sum(), 1e-12))
