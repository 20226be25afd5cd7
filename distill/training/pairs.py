"""What a training learns from: every image's latent and its own text, and for each edit its target text."""

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


def prepare_pairs(
    teacher: Teacher,
    dataset: ImageDataset,
    texts: Template | PhotoTexts,
    edits: Mapping[str, Substitution],
    folder: Path,
    progress: bool,
) -> Pairs:
    """Encode every image, make its prompts and check them.

    Args:
        teacher: its VAE encodes the images.
        dataset: the images, with their prompts and slots.
        texts: the template that the prompts were made from, or the texts of photographs.
        edits: name -> what it replaces.
        folder: where the latents are cached.
        progress: show a bar while the images are encoded.

    Raises:
        TrainingError: for an empty dataset, no edits, or an edit that does not fit the dataset's texts or changes
            none of them.
        DatasetError: for images of several sizes, or of one that the VAE cannot take.
        TeacherError: for a teacher that cannot score, or a prompt that is too long for it.
    """
    teacher.require_scorer()
    if not len(dataset):
        raise TrainingError(
            "the dataset is empty, so there is nothing to train on: run `distillery synthesize` first"
        )
    if not edits:
        raise TrainingError("there are no edits to train: name at least one under [edits] in the recipe")
    # All rows have the same slots: the first one is enough.
    missing = sorted(set(texts.slots) - set(dataset.slots[0]))
    if missing:
        raise TrainingError(
            f"the dataset has no slot {missing[0]!r}, which the template uses: it was painted from another template "
            "or imported; for photographs, give [photos] in the recipe instead of [scenes]"
        )
    sources = [texts.source(prompt) for prompt in dataset.prompts]
    targets: list[list[str]] = [[] for _ in sources]
    for name, edit in edits.items():
        try:
            fitted = [texts.target(*own, edit) for own in zip(dataset.prompts, dataset.slots, strict=True)]
        except RecipeError as error:
            raise TrainingError(f"the edit {name!r} does not fit the template: {error}") from error
        # An edit that changes no text asks for nothing: its student would learn the identity in hours.
        if fitted == sources:
            raise TrainingError(
                f"the edit {name!r} changes no image's text, so there is nothing to learn from it; "
                f"the first text is {sources[0]!r}, and {dict(edit)} leaves it as it is"
            )
        for prompts, prompt in zip(targets, fitted, strict=True):
            prompts.append(prompt)
    # Before the images are encoded, which takes long.
    teacher.check_prompts(sorted({*sources, *(prompt for prompts in targets for prompt in prompts)}))
    return Pairs(encode(teacher, dataset, folder, progress), sources, targets)
