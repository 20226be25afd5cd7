"""A run folder's copy on storage that outlives the machine: s3://, gs://, any URL that fsspec knows.

    URL/sofas-3f9a1c2e/...         the run folder's files, without those that can be made again from them
    URL/sofas-3f9a1c2e/index.json  which of them belong together: name -> size and SHA-256

**Conflicts.** Two machines' clocks cannot tell which file is newer. So the folder keeps, in `.remote_copy.json`, the
digest that each file had when folder and copy last agreed. A file with another digest on one side was changed on that
side. A file that was changed on both sides is a conflict, and refused: a person must decide which to keep. An upload
deletes only steps that folder and copy had in common and that later steps of the folder have replaced, so a training
that starts from scratch deletes nobody's checkpoints.

**A lost machine.** The index is written last, so a new checkpoint is there with all its files or not at all. Before
an upload replaces files (such as `metrics.jsonl`), the index lists their new content as `pending`. Until the upload
ends, each of them is the old or the new file, whole in either case. `stages.json`, which says what is done, is
uploaded last.

**Trust.** The index comes from outside. Only names of a run's own files are accepted (`is_run_file`);
no symlink is followed; a file is moved into place only once its digest is right.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from flows.run.remote_state import FileEntry, Index, SeenFile, State, first_problem, is_run_file
from synth.dataset.store import Store
from synth.errors import RunError
from synth.files import whole_file, write_text

_INDEX = "index.json"
_STATE = ".remote_copy.json"
_LAST = "stages.json"
_LEFT_OUT = ("dataset", "latents", "pairs")
_STEP = re.compile(r"((?:pixel/training-[0-9a-f]{16}/)?checkpoints|best)/step_([0-9]+)/")
_SHOWN = 5  # files in a message


class RemoteCopy:
    """The copy of a run folder at `url`/NAME.

    Args:
        url: of the folder that holds the copies of runs.
        folder: the run folder.
        content: what an upload sends (default: the run folder itself).

    Raises:
        DatasetError: if the URL cannot be opened.
        RunError: if `.remote_copy.json` is damaged.
    """

    def __init__(self, url: str, folder: Path, content: Path | None = None) -> None:
        self.folder = folder
        self._content = content or folder
        self._store = Store(f"{url.rstrip('/')}/{folder.resolve().name}")
        self._parent_store = Store(url)
        self._state = self._read_state()

    def __str__(self) -> str:
        return str(self._store)

    def check_writable(self) -> None:
        """Check that the storage can be written, before hours of work.

        Raises:
            DatasetError: if it cannot.
        """
        self._parent_store.check_writable()

    def download(self) -> list[str]:
        """Download the files that only the copy has, or that only the copy changed.

        Returns:
            The files' names.

        Raises:
            DatasetError: if the storage cannot be read.
            RunError: if the index is damaged, or both sides changed a file; then nothing is written.
        """
        index = self._read_index()
        here = self._digests()
        wanted: list[str] = []
        conflicts: list[str] = []
        for name in index.files:
            self.path_of(name)
            ours, before, theirs = here.get(name), self._state.common.get(name), index.accepted(name)
            # Both are the same, or only this side changed or deleted the file.
            if ours in theirs or before in theirs:
                continue
            (wanted if ours in (None, before) else conflicts).append(name)
        self._refuse(conflicts)
        for name in _in_order(wanted):
            here[name] = self._download(name, index)
        self._state.common |= {name: here[name] for name in index.files if here.get(name) in index.accepted(name)}
        if index.files:
            self._write_state()
        return _in_order(wanted)

    def upload(self, keep_on: Callable[[], bool] = lambda: True) -> list[str]:
        """Upload the files that changed here, and delete the copy's steps that later ones replaced.

        Args:
            keep_on: asked before each file; where it says no, the upload ends as one that was cut off.

        Returns:
            The names of the uploaded files.

        Raises:
            DatasetError: if the storage cannot be written.
            RunError: if another machine has changed the copy in the meantime, or its index is damaged.
        """
        index = self._read_index()
        here = self._digests()
        common = self._state.common
        self._refuse(
            name for name in index.files if name in here and not {here[name], common.get(name)} & index.accepted(name)
        )
        changed = _in_order(
            name for name in here if name not in index.files or index.files[name].sha256 != here[name]
        )
        ours = {name: FileEntry(size=self._state.seen[name].size, sha256=digest) for name, digest in here.items()}
        obsolete = [name for name in _replaced(index.files, here) if common.get(name) in index.accepted(name)]
        after = {name: file for name, file in (index.files | ours).items() if name not in obsolete}
        pending = {name: ours[name] for name in changed if name in index.files}
        # Announce replacements before the upload, and delete after it: a cut-off upload leaves a valid copy.
        if pending:
            self._write_index(Index(files=index.files, pending=pending))
        for name in changed:
            if not keep_on():
                return []
            self._store.upload(name, self.path_of(name))
        if after != index.files or index.pending or pending:
            self._write_index(Index(files=after))
        for name in obsolete:
            self._store.remove(name)
        self._state.common = {name: common[name] for name in after if name in common} | here
        self._write_state()
        return changed

    def _refuse(self, conflicts: Iterable[str]) -> None:
        if names := sorted(conflicts):
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise RunError(
                f"{self.folder} and {self} both changed {', '.join(names[:_SHOWN])}{more} since they last agreed: "
                "move the folder away to resume from the copy, or choose another --out to keep this folder's work"
            )

    def _download(self, name: str, index: Index) -> str:
        target = self.path_of(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path_of(name)  # check again, now that the folders exist
        with whole_file(target) as part:
            self._store.download(name, part)
            digest = _digest_of(part)
            if digest not in index.accepted(name):
                raise RunError(f"{self}/{name} is not what its index says: it is damaged, or is being written now")
        return digest

    def path_of(self, name: str) -> Path:
        """Return the local path of a run's file, and refuse symlinks on the way."""
        if not is_run_file(name):
            raise RunError(f"{self}/{_INDEX} names {name[:80]!r}, which is not a run's file: nothing was downloaded")
        path = self._content
        for component in name.split("/"):
            path = path / component
            if path.is_symlink():
                raise RunError(f"{path} is a symlink, which a remote copy does not follow: put the file itself there")
        return path

    def names(self) -> Iterator[str]:
        """Yield the names of the run's files that are copied.

        Raises:
            RunError: for a symlink among its folders.
        """
        for root, folders, files in os.walk(self._content):
            place = Path(root).relative_to(self._content)
            if place == Path():
                folders[:] = [name for name in folders if name not in _LEFT_OUT]
            # Unfinished folders of synth.files start with a dot.
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in folders:
                if (Path(root) / name).is_symlink():
                    raise RunError(f"{Path(root) / name} is a symlink, which a remote copy does not follow")
            yield from (name for file in files if is_run_file(name := (place / file).as_posix()))

    def _digests(self) -> dict[str, str]:
        """Digest the local files by name; only files that changed since they were last read are read."""
        seen: dict[str, SeenFile] = {}
        for name in sorted(self.names()):
            path = self.path_of(name)
            stat = path.stat()
            file = self._state.seen.get(name)
            if file is None or (file.size, file.mtime_ns) != (stat.st_size, stat.st_mtime_ns):
                file = SeenFile(size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=_digest_of(path))
            seen[name] = file
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
            self.path_of(name)
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


def _replaced(names: Iterable[str], here: Iterable[str]) -> list[str]:
    """Those of `names` that belong to a step older than the newest local one of its kind."""
    newest: dict[str, int] = {}
    for name in here:
        if match := _STEP.match(name):
            newest[match[1]] = max(newest.get(match[1], 0), int(match[2]))
    steps = ((name, _STEP.match(name)) for name in names if name not in here)
    return [name for name, match in steps if match and int(match[2]) < newest.get(match[1], 0)]


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort by name, with the file that says what is done at the end."""
    return sorted(names, key=lambda name: (name == _LAST, name))


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
