"""PIE-Bench's folder: 700 images of 512 x 512, each with two prompts and a mask of what an edit may change.

    mapping_file.json       id -> image_path, original_prompt, editing_prompt, editing_type_id, mask
    annotation_images/      the images, below the folders that image_path names

Edited words stand in [square brackets], which the prompts lose. A mask is pairs (start, length) of runs over the
image, row by row.
"""

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from typing_extensions import TypedDict

from distill.evaluation.examples import Example
from synth.errors import DatasetError, nearest
from synth.images.encoding import open_image
from synth.state import read_json, reading

SIDE = 512
"""Of an image and its mask, in pixels."""
MAPPING, IMAGES = "mapping_file.json", "annotation_images"
CATEGORIES = (
    *("random", "change object", "add object", "delete object", "change content", "change pose"),
    *("change color", "change material", "change background", "change style"),
)
"""By editing_type_id, 0 to 9."""
_REMEDY = "unpack the benchmark again"
_WORD = re.compile(r"[^\W_]+")


class Entry(TypedDict):
    """What `mapping_file.json` says of one image; the benchmark's own has more keys."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    image_path: str
    original_prompt: str
    editing_prompt: str
    editing_type_id: str
    mask: list[int]


@dataclass(frozen=True)
class PieCase:
    """One image with its edit."""

    key: str
    """In the mapping file."""
    category: int
    """A place in CATEGORIES."""
    path: Path
    source_prompt: str
    prompt: str
    edited_words: frozenset[str]
    """The words in brackets of the editing prompt, in small letters."""
    runs: tuple[int, ...]
    """The mask as the file has it."""

    @cached_property
    def fingerprint(self) -> str:
        """Of the image's bytes, the prompts and the mask.

        Raises:
            DatasetError: if the image cannot be read.
        """
        with reading(self.path, DatasetError, _REMEDY):
            content = hashlib.sha256(self.path.read_bytes())
        content.update(repr((self.source_prompt, self.prompt, self.runs)).encode())
        return content.hexdigest()[:16]

    def example(self) -> Example:
        """Read the image, as uint8 (512, 512, 3), with its prompts and its mask.

        Raises:
            ImageInputError: for an image that cannot be read.
            DatasetError: for one of another size.
        """
        image = np.asarray(open_image(self.path))
        if image.shape != (SIDE, SIDE, 3):
            height, width = image.shape[:2]
            raise DatasetError(f"{self.path} has {width} x {height} pixels and its mask {SIDE} x {SIDE}: {_REMEDY}")
        mask = decode_mask(self.runs)
        return Example(CATEGORIES[self.category], image, self.source_prompt, self.prompt, mask=mask)


def read_cases(folder: Path, categories: Collection[int] = ()) -> list[PieCase]:
    """Read the mapping file, and check that every image is there.

    Args:
        folder: of the benchmark.
        categories: places in CATEGORIES to keep; all, if empty.

    Returns:
        The cases in the file's order, category after category.

    Raises:
        DatasetError: if the folder is not PIE-Bench's, or nothing of these categories is in it.
    """
    mapping = folder / MAPPING
    if not mapping.is_file():
        raise DatasetError(
            f"{folder} is not PIE-Bench: it has no {MAPPING}; the benchmark's own folder has it beside {IMAGES}/"
        )
    entries: dict[str, Entry] = read_json(mapping, dict[str, Entry], DatasetError, _REMEDY)
    cases = [_case(folder, key, entry) for key, entry in entries.items()]
    chosen = [case for case in cases if not categories or case.category in categories]
    if not chosen:
        wanted = f" of category {', '.join(map(str, sorted(categories)))}" if categories else ""
        raise DatasetError(f"{mapping} names no image{wanted}")
    return sorted(chosen, key=lambda case: case.category)


def decode_mask(runs: Sequence[int]) -> NDArray[np.bool_]:
    """Decode a mask, (512, 512), true where the edit belongs.

    As the benchmark has it, the outermost pixels on each side are inside, and what lies beyond the end is cut off.
    """
    mask = np.zeros((SIDE, SIDE), bool)
    flat = mask.reshape(-1)  # a view
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = True
    mask[[0, -1]] = True
    mask[:, [0, -1]] = True
    return mask


def encode_mask(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask, (512, 512), as pairs (start, length) of its runs."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask.ravel(), [False]]).astype(np.int8)))
    return list(chain.from_iterable((int(start), int(end - start)) for start, end in edges.reshape(-1, 2)))


def _case(folder: Path, key: str, entry: Entry) -> PieCase:
    place = f"{folder / MAPPING}, image {key!r}"
    relative = PurePosixPath(entry["image_path"])
    if relative.is_absolute() or ".." in relative.parts or "\\" in entry["image_path"]:
        raise DatasetError(f"{place}: image_path {entry['image_path']!r} leads out of the folder: {_REMEDY}")
    path = folder / IMAGES / relative
    if not path.is_file():
        raise DatasetError(f"{place}: {path} is missing: {_REMEDY}")
    known = [str(number) for number in range(len(CATEGORIES))]
    if entry["editing_type_id"] not in known:
        raise DatasetError(f"{place}: no category {entry['editing_type_id']!r}{nearest('', known)}")
    runs = entry["mask"]
    if len(runs) % 2 or any(number < 0 for number in runs):
        raise DatasetError(f"{place}: its mask is not pairs of a start and a length: {_REMEDY}")
    edited = " ".join(re.findall(r"\[([^\]]*)\]", entry["editing_prompt"]))
    return PieCase(
        key,
        int(entry["editing_type_id"]),
        path,
        _without_brackets(entry["original_prompt"]),
        _without_brackets(entry["editing_prompt"]),
        frozenset(words_of(edited)),
        tuple(runs),
    )


def words_of(text: str) -> list[str]:
    """Split a text into words, in small letters."""
    return _WORD.findall(text.lower())


def _without_brackets(prompt: str) -> str:
    return prompt.replace("[", "").replace("]", "")
