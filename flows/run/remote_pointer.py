"""The recipe's pointer on storage that outlives the machine: one for the runs of all machines, the one that counts.

    URL/sofas.latest.json   beside the copies of the runs; the pointer beside the run folders is a copy of it

A model is compared with the one that this pointer names at that moment. It is read once more before it is replaced:
if another machine has moved it meanwhile, the model is compared with that machine's. What is left is the moment
between the second reading and the writing, since object stores have no common way to write a file only if it is
unchanged.
"""

import logging
from pathlib import Path

from flows.config.schema import Recipe
from flows.run.promotion import Verdict, check_pointer, pointer_of, promote
from synth.dataset.store import Store
from synth.errors import RunError
from synth.files import write_bytes

logger = logging.getLogger(__name__)

_MAX_COMPARISONS = 10  # other machines' promotions within one of ours; more is a fault of the storage


def promote_among_machines(recipe: Recipe, out: Path) -> Verdict:
    """Do what `promote` does, against the latest good model of all machines if the recipe has `remote_dir`.

    Raises:
        RunError: as `promote`, for the pointer of the storage too.
        DatasetError: if the storage cannot be read or written.
    """
    if recipe.operations.remote_dir is None:
        return promote(recipe, out)
    pointer = RemotePointer(recipe.operations.remote_dir, pointer_of(recipe, out))
    for _ in range(_MAX_COMPARISONS):
        compared_with = pointer.download()
        verdict = promote(recipe, out, pointer.has_model)
        if pointer.upload(compared_with):
            return verdict
        logger.info(f"another machine has moved {pointer}: comparing with its model")
    raise RunError(f"{pointer} was another one at each of {_MAX_COMPARISONS} readings: run again")


class RemotePointer:
    """A recipe's pointer at `url`, and its copy here.

    Args:
        url: of the folder that holds the copies of runs.
        pointer: the copy beside the run folders.

    Raises:
        DatasetError: if the URL cannot be opened.
    """

    def __init__(self, url: str, pointer: Path) -> None:
        self._store = Store(url)
        self._pointer = pointer

    def __str__(self) -> str:
        return f"{self._store}/{self._pointer.name}"

    def download(self) -> bytes | None:
        """Replace the pointer here by the storage's, if that has one.

        Returns:
            The storage's, None if it has none.

        Raises:
            DatasetError: if the storage cannot be read.
            RunError: if its pointer is damaged; then the one here stays.
        """
        theirs = self._read()
        if theirs is None:
            return None
        entry = check_pointer(theirs, self)
        if not self._pointer.exists() or self._pointer.read_bytes() != theirs:
            self._pointer.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._pointer, theirs)
            logger.info(f"the latest good model is {entry['model']}, as {self} says")
        return theirs

    def upload(self, expected: bytes | None) -> bool:
        """Replace the storage's pointer by the one here, unless it is not the expected one any more.

        Returns:
            Whether both are the same now.

        Raises:
            DatasetError: if the storage cannot be read or written.
        """
        ours, theirs = self._pointer.read_bytes(), self._read()
        if theirs not in (expected, ours):
            return False
        if theirs != ours:
            self._store.write(self._pointer.name, ours)
        return True

    def has_model(self, model: str) -> bool:
        """Whether the storage has the model that a pointer names, RUN/model.onnx."""
        return self._store.exists(model)

    def _read(self) -> bytes | None:
        return self._store.read(self._pointer.name) if self._store.exists(self._pointer.name) else None
