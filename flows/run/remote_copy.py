"""A run folder's copy on storage that outlives the machine: s3://, gs://, any URL that fsspec knows.

    URL/sofas.latest.json          the pointer of flows/run/promotion.py
    URL/sofas-3f9a1c2e/...         the run folder's files, without what can be made again from them
    URL/sofas-3f9a1c2e/index.json  which of them belong together: name -> size and SHA-256

**Who changed what.** Two machines' clocks say nothing about which file is newer. The folder keeps, in
`.remote_copy.json`, the digest that each file had when folder and copy last agreed. A file that differs from its copy
and from that digest on one side only was changed on that side; one that was changed on both is a conflict, and
refused: a person must say which machine's work counts. Nothing is deleted in the copy but steps that this folder had in
common with it and that its own later ones have replaced: a training that starts anew loses nobody's checkpoints.

**What a lost machine leaves.** The index is written last, so a new checkpoint is there with all its parts or not at
all. Files that are replaced (`metrics.jsonl`, say) are announced in the index beforehand, as `pending`; until the
copy is complete each of them may be the old one or the new one, whole in either case, and `stages.json`, which says
what is done, travels last.

**Whom to trust.** The index and the pointer come from outside. Only names of a run's own files are taken from it
(`is_run_file`), to be downloaded, uploaded or deleted; nothing goes through a symlink; a file takes its place once
its digest is right.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from flows.config.schema import Recipe
from flows.run.folder import is_run_file
from flows.run.promotion import check_pointer, pointer_of
from flows.run.remote_state import FileEntry, Index, SeenFile, State, first_problem
from synth.dataset.store import Store
from synth.errors import RunError
from synth.files import whole_file, write_bytes, write_text

logger = logging.getLogger(__name__)

_INDEX = "index.json"
_STATE = ".remote_copy.json"
_LAST = "stages.json"
_LEFT_OUT = ("dataset", "latents")
_STEP = re.compile(r"(checkpoints|best)/step_([0-9]+)/")
_SHOWN = 5  # files in a message


class RemoteCopy:
    """The copy of the run folder `folder` at `url`/NAME, with its pointer beside it.

    Raises:
        DatasetError: for a URL that cannot be opened.
        RunError: if what the folder keeps about its copy is damaged.
    """

    def __init__(self, url: str, folder: Path, pointer: Path) -> None:
        self.folder, self.pointer = folder, pointer
        self._store, self._beside = Store(f"{url.rstrip('/')}/{folder.resolve().name}"), Store(url)
        self._state = self._read_state()

    def __str__(self) -> str:
        return str(self._store)

    def check_writable(self) -> None:
        """Find out before hours of work whether the storage takes files.

        Raises:
            DatasetError: if it does not.
        """
        self._beside.check_writable()

    def download(self) -> list[str]:
        """Take what the copy has and this folder has not, or has as it was before; returns the files' names.

        Raises:
            DatasetError: if the storage cannot be read.
            RunError: if the index is damaged, or both sides changed a file; nothing is written then.
        """
        index, here = self._read_index(), self._digests()
        wanted: list[str] = []
        conflicts: list[str] = []
        for name in index.files:
            self._inside(name)
            ours, before, theirs = here.get(name), self._state.common.get(name), index.accepted(name)
            if ours in theirs or before in theirs:  # the same, or changed or deleted here alone
                continue
            (wanted if ours in (None, before) else conflicts).append(name)
        self._refuse(conflicts)
        self._download_pointer()
        for name in _in_order(wanted):
            here[name] = self._download(name, index)
        self._state.common |= {name: here[name] for name in index.files if here.get(name) in index.accepted(name)}
        if index.files:
            self._write_state()
        return _in_order(wanted)

    def upload(self) -> list[str]:
        """Copy what has changed here, and drop there the steps that later ones replaced; returns the files' names.

        Raises:
            DatasetError: if the storage cannot be written.
            RunError: if another machine has changed the copy meanwhile, or its index is damaged.
        """
        index, here, common = self._read_index(), self._digests(), self._state.common
        self._refuse(
            name for name in index.files if name in here and not {here[name], common.get(name)} & index.accepted(name)
        )
        changed = _in_order(
            name for name in here if name not in index.files or index.files[name].sha256 != here[name]
        )
        ours = {name: FileEntry(size=self._state.seen[name].size, sha256=digest) for name, digest in here.items()}
        gone = [name for name in _replaced(index.files, here) if common.get(name) in index.accepted(name)]
        after = {name: file for name, file in (index.files | ours).items() if name not in gone}
        replaced = {name: ours[name] for name in changed if name in index.files}
        if replaced:
            self._write_index(Index(files=index.files, pending=replaced))
        for name in changed:
            self._store.upload(name, self._inside(name))
        if after != index.files or index.pending or replaced:
            self._write_index(Index(files=after))
        for name in gone:
            self._store.remove(name)
        self._state.common = {name: common[name] for name in after if name in common} | here
        self._upload_pointer()
        self._write_state()
        return changed

    def _refuse(self, conflicts: Iterable[str]) -> None:
        if names := sorted(conflicts):
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise RunError(
                f"{self.folder} and {self} both changed {', '.join(names[:_SHOWN])}{more} since they last agreed: "
                "move the folder away to go on from the copy, or take another --out to keep this one's work"
            )

    def _download(self, name: str, index: Index) -> str:
        target = self._inside(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._inside(name)  # again, for the folders are there now
        with whole_file(target) as part:
            self._store.download(name, part)
            digest = _digest_of(part)
            if digest not in index.accepted(name):
                raise RunError(f"{self}/{name} is not what its index says: it was damaged, or is being written now")
        return digest

    def _inside(self, name: str) -> Path:
        """The path of a run's file here, reached through no symlink."""
        if not is_run_file(name):
            raise RunError(
                f"{self}/{_INDEX} names {name[:80]!r}, which is not a run's file: nothing was taken from it"
            )
        path = self.folder
        for part in name.split("/"):
            path = path / part
            if path.is_symlink():
                raise RunError(f"{path} is a symlink, and a remote copy follows none: put the file itself there")
        return path

    def _names(self) -> Iterator[str]:
        for root, folders, files in os.walk(self.folder):
            place = Path(root).relative_to(self.folder)
            if place == Path():
                folders[:] = [name for name in folders if name not in _LEFT_OUT]
            # Temporary folders of the one writer have a dot in front, as has this module's own file.
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in folders:
                if (Path(root) / name).is_symlink():
                    raise RunError(f"{Path(root) / name} is a symlink, and a remote copy follows none")
            yield from (name for file in files if is_run_file(name := (place / file).as_posix()))

    def _digests(self) -> dict[str, str]:
        """Name -> digest of what is here; only what has changed since it was read last is read."""
        seen: dict[str, SeenFile] = {}
        for name in sorted(self._names()):
            path = self._inside(name)
            stat, before = path.stat(), self._state.seen.get(name)
            if before is None or (before.size, before.mtime_ns) != (stat.st_size, stat.st_mtime_ns):
                before = SeenFile(size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=_digest_of(path))
            seen[name] = before
        self._state.seen = seen
        return {name: file.sha256 for name, file in seen.items()}

    def _read_index(self) -> Index:
        if not self._store.exists(_INDEX):
            return Index()
        try:
            index = Index.model_validate_json(self._store.read(_INDEX))
        except ValidationError as error:
            raise RunError(
                f"{self}/{_INDEX} is damaged ({first_problem(error)}): delete the copy, or name another"
            ) from None
        for name in [*index.files, *index.pending]:
            self._inside(name)
        return index

    def _write_index(self, index: Index) -> None:
        self._store.write(_INDEX, index.model_dump_json(indent=0).encode())

    def _read_state(self) -> State:
        path = self.folder / _STATE
        if not path.is_file():
            return State(url=str(self))
        try:
            state = State.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise RunError(f"{path} is damaged ({first_problem(error)}): delete it") from None
        return state if state.url == str(self) else State(url=str(self))

    def _write_state(self) -> None:
        write_text(self.folder / _STATE, self._state.model_dump_json(indent=0))

    def _download_pointer(self) -> None:
        if not self._beside.exists(self.pointer.name):
            return
        theirs = self._beside.read(self.pointer.name)
        check_pointer(theirs, f"{self._beside}/{self.pointer.name}")
        ours = self.pointer.read_bytes() if self.pointer.exists() else None
        digest = hashlib.sha256(theirs).hexdigest()
        # One pointer serves all runs of its recipe, so the copy's counts, unless only ours has moved.
        if ours is None or digest != self._state.pointer:
            self.pointer.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.pointer, theirs)
            self._state.pointer = digest

    def _upload_pointer(self) -> None:
        if not self.pointer.is_file():
            return
        ours = self.pointer.read_bytes()
        digest = hashlib.sha256(ours).hexdigest()
        if digest != self._state.pointer:
            self._beside.write(self.pointer.name, ours)
            self._state.pointer = digest


def _replaced(names: Iterable[str], here: Iterable[str]) -> list[str]:
    """Those of `names` that belong to a step which a later one of the same kind, here, has taken the place of."""
    newest: dict[str, int] = {}
    for name in here:
        if match := _STEP.match(name):
            newest[match[1]] = max(newest.get(match[1], 0), int(match[2]))
    steps = ((name, _STEP.match(name)) for name in names if name not in here)
    return [name for name, match in steps if match and int(match[2]) < newest.get(match[1], 0)]


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name == _LAST, name))


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(recipe: Recipe, out: Path) -> None:
    """Take what another machine left of the run, where the recipe has a place for such.

    Raises:
        DatasetError: if the storage cannot be read, or only read.
        RunError: if the copy is damaged, or in conflict with the folder.
    """
    if recipe.operations.remote_dir is None:
        return
    copy = RemoteCopy(recipe.operations.remote_dir, out, pointer_of(recipe, out))
    copy.check_writable()
    if names := copy.download():
        logger.info(f"downloaded {len(names)} files of this run from {copy}")


def upload(recipe: Recipe, out: Path) -> None:
    """Copy the run folder to where the recipe keeps such, if it does.

    Raises:
        DatasetError: if the storage cannot be written.
        RunError: if another machine has changed the copy meanwhile.
    """
    if recipe.operations.remote_dir is not None:
        RemoteCopy(recipe.operations.remote_dir, out, pointer_of(recipe, out)).upload()
