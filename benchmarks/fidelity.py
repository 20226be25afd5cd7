"""Quality of a run's model files, compared with PyTorch's call, on the counterfactual benchmark, by the same code.

    distillery export runs/demo --format onnx,torchscript,pt2 --precision float32,float16,int8
    python benchmarks/fidelity.py runs/demo [--num-scenes 25] [--split test] [--sheet sheet.png --edit purple-velvet]

    PyTorch     the networks, with the composition that all files have (`distill.composition`)
    plain       the same, but decode(z + delta) alone, as an autoencoder is used elsewhere
    difference  the same, but image + decode(z + delta) - decode(z), which ghosts inside large edits
    model.*     each file that the run has

The table has means over edits and scenes; in brackets is the difference from PyTorch in per cent of its value.
--sheet writes an image with some inputs, and what plain, difference and PyTorch make of them.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from processes import one_line
from torch import Tensor
from tqdm import tqdm

from distill.evaluation.counterfactuals import Translate, average, choose_scenes, evaluate_edits
from distill.evaluation.examples import SIZE
from distill.evaluation.metrics import Images
from distill.students import load_student
from flows.run.folder import RunFolder
from flows.shared_teacher import open_teacher
from inference.export.formats import open_file
from inference.export.modules import ExportModule
from inference.settings import EVERY_KIND
from synth.images.encoding import tile_images
from synth.pixels import to_float, to_uint8
from synth.world.readers import FactorReader
from synth.world.scenes import WorldScene, render

_SHOWN = ("psnr_all", "psnr_inside", "psnr_outside_to_input", "ssim_all", "ssim_inside", "sharpness_inside", "right")
_ON_SHEET = 8


@one_line
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--num-scenes", type=int, default=25)
    parser.add_argument("--split", default="test", choices=("development", "test", "shifted"))
    parser.add_argument("--sheet", type=Path, help="PNG to write")
    parser.add_argument("--edit", help="edit on the sheet (default: the first)")
    args = parser.parse_args()

    run = RunFolder(args.run)
    recipe = run.load_recipe()
    teacher = open_teacher(recipe.teacher)
    student = load_student(run.student)
    names = list(student.edits)
    module = ExportModule(teacher.vae, student)
    translates = {
        "PyTorch": _pytorch(module, names),
        "plain": _decoded(module, names, lambda x, edited, plain: edited),
        "difference": _decoded(module, names, lambda x, edited, plain: x + edited - plain),
    }
    for kind in EVERY_KIND:
        if (path := run.path / kind.file_name).exists():
            translates[path.name] = _file(path, kind.format, names)

    scenes = choose_scenes(recipe.edits, args.num_scenes, args.split, recipe.evaluation.given)
    reader = FactorReader.load()
    if args.sheet is not None:
        _sheet(translates, scenes[:_ON_SHEET], args.edit or names[0]).save(args.sheet)
    print(f"{'':24} {' '.join(f'{metric:>21}' for metric in _SHOWN)}")
    first: dict[str, float] = {}  # PyTorch's
    for name, translate in tqdm(translates.items(), leave=False):
        rows = evaluate_edits(translate, recipe.edits, scenes, lambda images: images, reader, 0, method=name)
        means = next(asdict(row) for row in average(rows) if (row.method, row.scenes) == (name, "edited"))
        first = first or means
        cells = (f"{means[key]:.3f} ({100 * (means[key] / first[key] - 1):+.2f} %)" for key in _SHOWN)
        tqdm.write(f"{name:24} {' '.join(f'{cell:>21}' for cell in cells)}")


def _sheet(translates: dict[str, Translate], scenes: Sequence[WorldScene], edit: str) -> Image.Image:
    inputs = np.stack([render(scene, SIZE).image for scene in scenes])
    rows = [inputs, *(translates[name](inputs, edit) for name in ("plain", "difference", "PyTorch"))]
    return tile_images(rows)


def _inputs(images: Images, edit: str, names: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    count = len(images)
    return to_float(torch.from_numpy(images)), torch.full((count,), names.index(edit)), torch.ones(count)


def _pytorch(module: ExportModule, names: list[str]) -> Translate:
    return torch.no_grad()(lambda images, edit: to_uint8(module(*_inputs(images, edit, names))))


def _decoded(
    module: ExportModule, names: list[str], compose: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Translate:
    """Combine the edited and the plain decode in another way than the files do."""

    @torch.no_grad()
    def translate(images: Images, edit: str) -> Images:
        x, number, _ = _inputs(images, edit, names)
        z = (module.vae.encode(x).latent_dist.mode() - module.shift) * module.scale  # (N, C, h, w)
        edited, plain = (
            module.vae.decode(latents / module.scale + module.shift).sample
            for latents in (z + module.student(z, number), z)
        )
        return to_uint8(compose(x, edited, plain))

    return translate


def _file(path: Path, format_: str, names: list[str]) -> Translate:
    run = open_file(path, format_)

    def translate(images: Images, edit: str) -> Images:
        x, number, strength = (each.numpy() for each in _inputs(images, edit, names))
        return to_uint8(torch.from_numpy(np.asarray(run({"image": x, "edit": number, "strength": strength}))))

    return translate


if __name__ == "__main__":
    main()
