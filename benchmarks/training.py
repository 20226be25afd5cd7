"""Time of a training step, compared with the work that it needs, and what one source branch saves, in one run.

    python benchmarks/training.py [--teacher miniature] [--rounds 10] [--batch-size 2]

    step       a step of `distill.training.train`, over its floor: the bare calls of teacher and student, the
               backward pass, Adam and the moving average, on the same shapes in the same precision
    passes     the teacher's passes with one source branch for K = 4 edits, over 4 K passes an image with one for each
    whole      whole steps, compared in the same way, for each kind of student

All take turns, so that other load on the machine falls on all of them. Each number is the median of the rounds'
ratios.
"""

import argparse
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from processes import one_line
from torch import Tensor
from turns import Work, in_turns, median_ratio

from distill.scores import Score, Sources, dds, shared_source_dds
from distill.settings import TrainingSettings
from distill.students import new_student
from distill.training.precision import autocast_of
from distill.training.train import train
from synth.cpu import keep_freed_memory
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.importing import import_photos
from synth.dataset.prompts import PhotoTexts
from synth.settings import PhotoSettings, PhotoTextSettings, TeacherSettings
from synth.teacher.teacher import Conditioning, Teacher

_SOURCE = "a grey fabric sofa in a living room"
_EDITS = {color: {"target": f"a {color} fabric sofa in a living room"} for color in ("red", "blue", "pink", "green")}
_KINDS = ("unet", "compact")


@one_line
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="miniature")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=2)
    args = parser.parse_args()
    keep_freed_memory()
    teacher = Teacher.load(TeacherSettings(id=args.teacher))
    with tempfile.TemporaryDirectory() as scratch:
        painted = _noise(Path(scratch), teacher.defaults.image_size)
        works: dict[str, Work] = {}
        for kind in _KINDS:
            settings = TrainingSettings(
                preset="short", student=kind, steps=10**6, checkpoint_every=10**6, batch_size=args.batch_size
            )
            for name, score in (("shared", shared_source_dds), ("plain", plain_dds)):
                works[f"{kind} {name}"] = _step(teacher, painted, settings, score, Path(scratch) / f"{kind}-{name}")
            works[f"{kind} floor"] = _floor(teacher, settings)
        for name, score in (("shared", shared_source_dds), ("plain", plain_dds)):
            works[f"passes {name}"] = _passes(teacher, score, args.batch_size)
        spent = in_turns(works, args.rounds, warm_up=2)
    ratio = partial(median_ratio, spent)
    for kind in _KINDS:
        print(f"step     {kind:8} {ratio(f'{kind} shared', f'{kind} floor'):.3f} of its floor")
    print(
        f"passes            {ratio('passes plain', 'passes shared'):.3f} times as fast as {len(_EDITS)} plain scores"
    )
    for kind in _KINDS:
        print(
            f"whole    {kind:8} {ratio(f'{kind} plain', f'{kind} shared'):.3f} times as fast as the plain way's steps"
        )


def plain_dds(
    teacher: Teacher, z: Tensor, y: Conditioning, sources: Sources, images: Sequence[int], omega: float
) -> Tensor:
    """Compute `shared_source_dds` with a source branch for each edit, in one call."""
    each = list(images)
    z_hat, y_hat, t, eps = sources.z_hat[each], sources.y_hat[each], sources.t[each], sources.eps[each]
    return dds(teacher, z.detach(), z_hat, y, y_hat, t, eps, omega)


def _step(teacher: Teacher, painted: ImageDataset, settings: TrainingSettings, score: Score, folder: Path) -> Work:
    texts = PhotoTexts(PhotoTextSettings(source=_SOURCE))
    records = train(teacher, painted, texts, _EDITS, settings, folder, progress=False, score=score)
    return lambda: next(records)


def _floor(teacher: Teacher, settings: TrainingSettings) -> Work:
    """Call only the networks that one step must call, on tensors made before."""
    num = settings.batch_size * len(_EDITS)
    student = new_student(teacher, {name: edit["target"] for name, edit in _EDITS.items()}, settings)
    averaged = deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-5)
    autocast = autocast_of(settings, teacher.device)
    both = 2 * (settings.batch_size + num)
    z = _latents(teacher, num)
    z_t = _latents(teacher, both)
    t = torch.full((both,), 500, device=teacher.device)
    texts = teacher.encode_prompt([_SOURCE]).expand(both)
    edit = torch.arange(len(_EDITS), device=teacher.device).repeat(settings.batch_size)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            delta = student(z, edit).float()
            with torch.no_grad():
                eps = teacher.family.predict_noise(z_t, t, texts)
        (delta * eps[:num]).mean().backward()
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(averaged.parameters(), student.parameters(), strict=True):
                mean.lerp_(weight, 0.01)

    return step


def _passes(teacher: Teacher, score: Score, batch_size: int) -> Work:
    z_hat = _latents(teacher, batch_size)
    images = [image for image in range(batch_size) for _ in _EDITS]
    z = z_hat[images]
    y = teacher.encode_prompt([edit["target"] for edit in _EDITS.values()] * batch_size)
    y_hat = teacher.encode_prompt([_SOURCE] * batch_size)
    t = torch.full((batch_size,), 500, device=teacher.device)
    autocast = autocast_of(TrainingSettings(preset="short"), teacher.device)

    def call() -> None:
        with autocast():
            score(teacher, z, y, Sources(z_hat, y_hat, t, torch.ones_like(z_hat)), images, 5.5)

    return call


def _latents(teacher: Teacher, num: int) -> Tensor:
    side = teacher.defaults.image_size // teacher.vae_scale_factor
    generator = torch.Generator().manual_seed(0)
    return torch.randn((num, teacher.latent_channels, side, side), generator=generator).to(teacher.device)


def _noise(folder: Path, size: int) -> ImageDataset:
    """Import eight images of noise, which cost nothing to paint."""
    source = folder / "noise"
    source.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(source / f"{number}.png")
    import_photos(str(source), PhotoSettings(image_size=size), folder / "dataset", progress=False)
    return ImageDataset(folder / "dataset")


if __name__ == "__main__":
    main()
