"""What a training learns from: every image's latent and its own text, and for each edit its target text."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from synth.dataset.image_dataset import ImageDataset
from synth.dataset.latents import encode
from synth.dataset.prompts import PhotoTexts, Template
from synth.errors import RecipeError, TrainingError
from synth.files import write_text
from synth.settings import Substitution
from synth.teacher.teacher import Teacher

logger = logging.getLogger(__name__)

Texts = Template | PhotoTexts


@dataclass(frozen=True)
class Pairs:
    """The training set: M images, K edits."""

    latents: Tensor
    """z_hat, float32 (M, C, h, w), mapped from a file."""
    source_prompts: list[str]
    """M, what each image shows."""
    target_prompts: list[list[str]]
    """M x K."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Photographs without which the training goes on, by name, with the reason."""
    cut: dict[str, str] = field(default_factory=dict)
    """Photographs whose caption was cut, by name, with the reason."""
    num_uncaptioned: int = 0
    """Photographs without the caption that the edits are made in."""


def prepare_pairs(
    teacher: Teacher,
    dataset: ImageDataset,
    texts: Texts,
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
        TrainingError: for an empty dataset, no edits, an edit that does not fit the dataset's texts or changes
            none of them, or captions of which the teacher can read none.
        DatasetError: for images of several sizes, or of one that the VAE cannot take.
        TeacherError: for a teacher that cannot score, or a prompt that is too long for it.
    """
    teacher.require_scorer()
    _require_slots(dataset, texts, edits)
    rows = text_rows(texts, edits, zip(dataset.prompts, dataset.slots, strict=True))
    # Before the images are encoded, which takes long.
    long = teacher.too_long(sorted({prompt for row in rows for prompt in row}))
    if texts.long_captions == "refuse":
        teacher.check_prompts(list(long))
        return Pairs(encode(teacher, dataset, folder, progress), *_columns(rows))
    reasons = {index: long[text] for index, row in enumerate(rows) for text in row if text in long}
    named = {dataset.names[index]: reason for index, reason in reasons.items()}
    left_out, cut = ({}, named) if texts.long_captions == "cut" else (named, {})
    if cut:
        for index in reasons:
            rows[index] = _cut(teacher, dataset.prompts[index], lambda text: _texts_of(texts, edits, text, {}))
    if left_out:
        _refuse_no_photographs(left_out, len(rows) - len(reasons))
        dataset = dataset.without(reasons)
        rows = [row for index, row in enumerate(rows) if index not in reasons]
    _refuse_edits_without_effect(rows, edits)
    prompts, targets = _columns(rows)
    latents = encode(teacher, dataset, folder, progress)
    return Pairs(latents, prompts, targets, left_out, cut, num_uncaptioned=prompts.count(""))


def _require_slots(dataset: ImageDataset, texts: Texts, edits: Mapping[str, Substitution]) -> None:
    """Check that there are images, with what the texts are made from, and edits.

    Raises:
        TrainingError: if not.
    """
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


def _refuse_no_photographs(left_out: Mapping[str, str], num_others: int) -> None:
    """Refuse to train on nothing.

    Raises:
        TrainingError: if all photographs are left out.
    """
    if not num_others:
        name, reason = next(iter(left_out.items()))
        raise TrainingError(
            f"the captions of all photographs are too long: that of {name} has {reason}; shorten them, or set "
            "photos.long_captions=cut"
        )


def report_captions(pairs: Pairs, run_dir: Path) -> None:
    """Say which photographs are left out or have their caption cut; long_captions.jsonl lists all of them.

    Raises:
        FileError: if the list cannot be written.
    """
    if named := {**pairs.left_out, **pairs.cut}:
        name, reason = next(iter(named.items()))
        done = "the captions of {} photographs are cut" if pairs.cut else "{} photographs are left out"
        remedy = "" if pairs.cut else "; shorten their captions, or set photos.long_captions=cut"
        logger.warning(
            f"{done.format(len(named))}, such as {name}, whose caption or an edit of it has {reason}{remedy}. "
            "long_captions.jsonl in the run folder names all of them"
        )
        lines = (json.dumps({"name": name, "reason": reason}, ensure_ascii=False) for name, reason in named.items())
        write_text(run_dir / "long_captions.jsonl", "".join(f"{line}\n" for line in lines))
    if pairs.num_uncaptioned:
        logger.warning(
            f"{pairs.num_uncaptioned} of {len(pairs.source_prompts)} photographs have no caption, so no edit changes "
            "them: add captions and import again, or give all photographs one text with photos.source"
        )


def text_rows(
    texts: Texts, edits: Mapping[str, Substitution], images: Iterable[tuple[str, Mapping[str, str]]]
) -> list[tuple[str, ...]]:
    """Make all texts of a training.

    Args:
        texts: the template that the prompts were made from, or the texts of photographs.
        edits: name -> what it replaces.
        images: of each its prompt and its slots.

    Returns:
        For each image its source prompt, then its target prompt of each edit.

    Raises:
        TrainingError: for an edit that does not fit the texts, or changes none of them.
    """
    rows = [_texts_of(texts, edits, *own) for own in images]
    _refuse_edits_without_effect(rows, edits)
    return rows


def _texts_of(
    texts: Texts, edits: Mapping[str, Substitution], prompt: str, slots: Mapping[str, str]
) -> tuple[str, ...]:
    """Return an image's source prompt, then its target prompt of each edit.

    Raises:
        TrainingError: for an edit that does not fit the texts.
    """
    row = [texts.source(prompt)]
    for name, edit in edits.items():
        try:
            row.append(texts.target(prompt, slots, edit))
        except RecipeError as error:
            raise TrainingError(f"the edit {name!r} does not fit the template: {error}") from error
    return tuple(row)


def _refuse_edits_without_effect(rows: list[tuple[str, ...]], edits: Mapping[str, Substitution]) -> None:
    """Refuse an edit that changes no text, and so asks for nothing: its student would learn the identity in hours.

    Raises:
        TrainingError: for such an edit.
    """
    for number, (name, edit) in enumerate(edits.items(), start=1):
        if all(row[number] == row[0] for row in rows):
            raise TrainingError(
                f"the edit {name!r} changes no image's text, so there is nothing to learn from it; "
                f"the first text is {rows[0][0]!r}, and {dict(edit)} leaves it as it is"
            )


def _columns(rows: list[tuple[str, ...]]) -> tuple[list[str], list[list[str]]]:
    """Return the source prompts, M, and the target prompts, M x K."""
    return [row[0] for row in rows], [list(row[1:]) for row in rows]


def _cut(teacher: Teacher, caption: str, texts_of: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
    """Return the texts of the longest beginning of a caption that the teacher can read, before and after all edits.

    It ends with a whole word, or where the first one is too long already, as without spaces, with a letter.
    """
    for pieces, space in ((caption.split(), " "), (list(caption), "")):
        low, high = 0, len(pieces) - 1
        while low < high:
            middle = (low + high + 1) // 2
            too_long = teacher.too_long(texts_of(space.join(pieces[:middle])))
            low, high = (low, middle - 1) if too_long else (middle, high)
        if low:
            return texts_of(space.join(pieces[:low]))
    return texts_of("")
