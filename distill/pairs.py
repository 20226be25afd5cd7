"""What a training looks at: every image's latent, its own text, and for each edit the text that it shall fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from synth.dataset.image_dataset import ImageDataset
from synth.dataset.latents import encode
from synth.dataset.prompts import PhotoTexts, Template
from synth.errors import RecipeError, TrainingError
from synth.settings import Substitution
from synth.teacher.teacher import Teacher


@dataclass(frozen=True)
class Pairs:
    """The training set: M images, K edits."""

    latents: Tensor
    """z_hat, float32 (M, C, h, w), mapped from a file."""
    source_prompts: list[str]
    """M, what each image shows."""
    target_prompts: list[list[str]]
    """M x K."""


def prepare(
    teacher: Teacher,
    painted: ImageDataset,
    texts: Template | PhotoTexts,
    edits: Mapping[str, Substitution],
    folder: Path,
    progress: bool,
) -> Pairs:
    """Every image's latent and prompts, checked.

    Args:
        teacher: whose VAE encodes the images.
        painted: the images, with their prompts and slots.
        texts: the template that their prompts were made from, or the texts of photographs.
        edits: name -> what it replaces.
        folder: where the latents are kept.
        progress: show a bar while they are encoded.

    Raises:
        TrainingError: for an empty set, no edits, an edit that does not fit the set's texts or changes none of them.
        DatasetError: for images of several sizes, or of one that the VAE cannot take.
        TeacherError: for a teacher that cannot score, or prompts that it cannot read to their end.
    """
    teacher.require_scorer()
    if not len(painted):
        raise TrainingError("the data set is empty: there is nothing to train on; run `distillery synthesize` first")
    if not edits:
        raise TrainingError("there are no edits to train: name at least one under [edits] in the recipe")
    missing = sorted(set(texts.slots) - set(painted.slots[0]))
    if missing:
        raise TrainingError(
            f"the data set has no slot {missing[0]!r} that the template uses: it was painted from another template, "
            "or imported: for photographs give [photos] in the recipe in place of [scenes]"
        )
    sources = [texts.source(prompt) for prompt in painted.prompts]
    targets: list[list[str]] = [[] for _ in sources]
    for name, edit in edits.items():
        try:
            fitted = [texts.target(*own, edit) for own in zip(painted.prompts, painted.slots, strict=True)]
        except RecipeError as error:
            raise TrainingError(f"the edit {name!r} does not fit the template: {error}") from error
        if fitted == sources:
            raise TrainingError(
                f"the edit {name!r} changes no image's text: there is nothing to learn from it; "
                f"the first text is {sources[0]!r}, and {dict(edit)} leaves it as it is"
            )
        for prompts, prompt in zip(targets, fitted, strict=True):
            prompts.append(prompt)
    teacher.check_prompts(sorted({*sources, *(prompt for prompts in targets for prompt in prompts)}))
    return Pairs(encode(teacher, painted, folder, progress), sources, targets)
