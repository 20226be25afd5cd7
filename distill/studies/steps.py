"""How many iterations an edit needs (supplement, figure 2)."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from distill.evaluation.examples import drawn_examples
from distill.evaluation.grids import GridRow, labelled_grid
from distill.settings import EditSettings
from distill.studies.rows import mean
from distill.studies.study import Row, Study, Unit, measure_example, trajectory
from synth.images.encoding import decode_rgb, png_bytes
from synth.teacher.teacher import Teacher
from synth.world.readers import FactorReader

EDITS: tuple[tuple[str, dict[str, str], dict[str, str]], ...] = (
    ("easy", {"color": "red", "material": "leather"}, {}),
    ("easy", {"weather": "sunset"}, {"weather": "clear"}),
    ("structural", {"flower": "tulips"}, {"flower": "none"}),
    ("structural", {"character": "sculpture"}, {"character": "person"}),
)


@dataclass(frozen=True)
class Steps(Study):
    """DDS after 100, 200, 300 and 400 iterations."""

    settings: EditSettings
    num_scenes: int = 4
    at: tuple[int, ...] = (100, 200, 300, 400)
    """Iterations to look at."""
    name = "steps"
    question = "Do large changes of structure need more iterations than changes of surface?"

    def units(self) -> list[Unit]:
        return [{"place": place} for place in range(len(EDITS))]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        kind, factors, given = EDITS[unit["place"]]
        examples = drawn_examples(factors, self.num_scenes, "development", **given)
        settings = self.settings.model_copy(update={"iterations": max(self.at)})
        images_at = {0: [example.image for example in examples], **trajectory(teacher, examples, settings, self.at)}
        reader = FactorReader.load()
        return [
            {
                "edit": example.edit,
                "kind": kind,
                "scene": place,
                "iterations": iterations,
                **measure_example(images[place], example, reader),
                "png": png_bytes(Image.fromarray(images[place])),
            }
            for iterations, images in images_at.items()
            for place, example in enumerate(examples)
        ]

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        grid_rows = []
        for kind, edit in dict.fromkeys((row["kind"], row["edit"]) for row in rows):
            for scene in range(min(2, self.num_scenes)):
                cells = [row for row in rows if (row["edit"], row["scene"]) == (edit, scene)]
                captions = [f"{cell['psnr_inside']:.1f} dB inside" for cell in cells]
                grid_rows.append(GridRow(f"{edit} ({kind})", [decode_rgb(cell["png"]) for cell in cells], captions))
        return labelled_grid(["input", *(f"{at} iterations" for at in self.at)], grid_rows)

    def finding(self, rows: Sequence[Row]) -> str:
        findings = []
        for kind in ("easy", "structural"):
            inside, right = (
                {at: mean(rows, metric, kind=kind, iterations=at) for at in (0, 200, 400)}
                for metric in ("psnr_inside", "right")
            )
            gained = {at: inside[at] - inside[0] for at in (200, 400)}
            findings.append(
                f"{kind} edits: {gained[200]:+.1f} dB inside the mask after 200 iterations, {gained[400]:+.1f} after "
                f"400; factor right in {right[200]:.0%} and {right[400]:.0%}"
            )
        return "; ".join(findings) + "."
