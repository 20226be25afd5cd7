"""A run folder's copy on storage that outlives the machine: s3://, gs://, any URL that fsspec knows.

    URL/sofas.latest.json          the pointer of flows/run/promotion.py
    URL/sofas-3f9a1c2e/...         the run folder's files, without what can be made again from them
    URL/sofas-3f9a1c2e/index.json  which of them belong together: name -> when it was made, in ns

The index is written last, whole. So a machine that is lost in the middle of a copy leaves the one before, and a
checkpoint is there with all its parts, or not at all.
"""

import json
import logging
import os
from pathlib import Path

from flows.config.schema import Recipe
from flows.run.promotion import pointer_of
from synth.dataset.store import Store
from synth.files import write_bytes

logger = logging.getLogger(__name__)

_INDEX = "index.json"
_LEFT_OUT = ("dataset/", "latents/")  # a set has a URL of its own; latents follow from it


class RemoteCopy:
    """The copy of the run folder `folder` at `url`/NAME, with its pointer beside it."""

    def __init__(self, url: str, folder: Path, pointer: Path) -> None:
        self.folder, self.pointer = folder, pointer
        self._store, self._beside = Store(f"{url.rstrip('/')}/{folder.resolve().name}"), Store(url)

    def __str__(self) -> str:
        return str(self._store)

    def fetch(self) -> list[str]:
        """Take what is missing here, or older than the copy; returns the files' names.

        Raises:
            DatasetError: if the storage cannot be read.
        """
        if self._beside.exists(self.pointer.name):
            self.pointer.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.pointer, self._beside.read(self.pointer.name))
        there = self._index()
        newer = [name for name, made in there.items() if made > self._made(name)]
        for name in newer:
            path = self.folder / name
            self._store.download(name, path)
            os.utime(path, ns=(there[name], there[name]))
        return newer

    def push(self) -> list[str]:
        """Copy what has changed here, and drop what is gone here; returns the files' names.

        Raises:
            DatasetError: if the storage cannot be written.
        """
        there = self._index()
        here = {name: self._made(name) for name in self._names()}
        changed = [name for name, made in here.items() if made != there.get(name)]
        for name in changed:
            self._store.upload(name, self.folder / name)
        if here != there:
            self._store.write(_INDEX, json.dumps(here, indent=0).encode())
        for name in there.keys() - here.keys():
            self._store.remove(name)
        if self.pointer.exists():
            self._beside.write(self.pointer.name, self.pointer.read_bytes())
        return changed

    def _index(self) -> dict[str, int]:
        there: dict[str, int] = json.loads(self._store.read(_INDEX)) if self._store.exists(_INDEX) else {}
        return there

    def _names(self) -> list[str]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        names = (path.relative_to(self.folder).as_posix() for path in files)
        whole = (name for name in names if not any(part.startswith(".") for part in name.split("/")))
        return sorted(name for name in whole if not name.startswith(_LEFT_OUT))

    def _made(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_mtime_ns if path.exists() else 0


def download(recipe: Recipe, out: Path) -> None:
    """Take what another machine left of the run, where the recipe has a place for such.

    Raises:
        DatasetError: if the storage cannot be read.
    """
    if recipe.operations.remote_dir is None:
        return
    mirror = RemoteCopy(recipe.operations.remote_dir, out, pointer_of(recipe, out))
    if names := mirror.fetch():
        logger.info(f"downloaded {len(names)} files of this run from {mirror}")


def upload(recipe: Recipe, out: Path) -> None:
    """Copy the run folder to where the recipe keeps such, if it does.

    Raises:
        DatasetError: if the storage cannot be written.
    """
    if recipe.operations.remote_dir is not None:
        RemoteCopy(recipe.operations.remote_dir, out, pointer_of(recipe, out)).push()
