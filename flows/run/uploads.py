"""When a run's remote copy is read and written: before the run, between its stages, and beside a training.

A training goes on while its run folder is uploaded. The upload sends a snapshot: links to the files as they are at
that moment, since every file is replaced whole, and copies of the few that grow. One upload runs at a time. What is
asked for meanwhile follows it, once, with what is newest then.
"""

import logging
import os
import shutil
import threading
from contextlib import ExitStack
from pathlib import Path

from flows.config.processes import processes_of
from flows.config.schema import Recipe
from flows.run.promotion import pointer_of
from flows.run.remote_copy import RemoteCopy
from flows.run.remote_pointer import RemotePointer
from synth.files import is_partial, scratch_folder

logger = logging.getLogger(__name__)

_GROWING = (".jsonl", ".log")
_SNAPSHOT = "upload"  # part of its folder's name, `.upload.RANDOM.part`
_SECONDS_TO_END = 10.0  # of an upload that is cut off: as long as a file may take before it is left alone


def download(recipe: Recipe, out: Path) -> None:
    """Download what another machine left of the run, if the recipe has `operations.remote_dir`; upload what it lacks.

    It lacks what a process made here and was killed before it could upload, and all that was made before the recipe
    had a `remote_dir`.

    Raises:
        DatasetError: if the storage cannot be read, or cannot be written.
        RunError: if the copy or the pointer beside it is damaged, or the copy conflicts with the folder.
    """
    if recipe.operations.remote_dir is None:
        return
    copy = RemoteCopy(recipe.operations.remote_dir, out)
    copy.check_writable()
    if names := copy.download():
        logger.info(f"downloaded {len(names)} files of this run from {copy}")
    RemotePointer(recipe.operations.remote_dir, pointer_of(recipe, out)).download()
    # A new folder has nothing; of machines that share a training, the first one uploads.
    is_first = processes_of(recipe.operations).machine_rank == 0
    if is_first and any(copy.names()) and (names := copy.upload()):
        logger.info(f"uploaded {len(names)} files of this run that {copy} did not have")


def upload(recipe: Recipe, out: Path) -> None:
    """Upload the run folder, if the recipe has `operations.remote_dir`.

    Raises:
        DatasetError: if the storage cannot be written.
        RunError: if another machine has changed the copy in the meantime.
    """
    if recipe.operations.remote_dir is not None:
        RemoteCopy(recipe.operations.remote_dir, out).upload()


class Uploads:
    """Uploads a run folder beside a training, if the recipe has `operations.remote_dir`.

    As a context it waits at its end for what was asked for. Where the training fails or is stopped, it asks the
    upload that is running to end after the present file, and starts no other: a cut-off upload leaves a valid copy.
    """

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self._recipe = recipe
        self._out = out
        self._thread: threading.Thread | None = None
        self._is_stale = False  # something was asked for after the snapshot of the upload that runs
        self._stop = threading.Event()
        self._error: BaseException | None = None

    def __enter__(self) -> "Uploads":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        except BaseException:  # of the upload, or a signal while it runs
            self._cut_off()
            raise
        if kind is not None:
            self._cut_off()

    def _cut_off(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_SECONDS_TO_END)

    def ask(self) -> None:
        """Have the folder uploaded as it is now, or, while another upload runs, as it is when that has ended.

        Raises:
            DatasetError: if the storage could not be written at the upload before.
            RunError: if another machine had changed the copy by then.
        """
        if self._recipe.operations.remote_dir is None:
            return
        if self._thread is not None and self._thread.is_alive():
            self._is_stale = True
            return
        self._join()
        self._start()

    def wait(self) -> None:
        """Wait until everything that was asked for is uploaded.

        Raises:
            DatasetError, RunError: as `ask`.
        """
        self._join()
        if self._is_stale:
            self._start()
            self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            self._is_stale = False
            raise error

    def _start(self) -> None:
        self._is_stale = False
        for entry in self._out.glob(f".{_SNAPSHOT}.*"):  # of a process that was killed: links hold what was deleted
            if is_partial(entry.name):
                shutil.rmtree(entry, ignore_errors=True)
        with ExitStack() as scratch:
            content = scratch.enter_context(scratch_folder(self._out / _SNAPSHOT))
            take_snapshot(self._copy(self._out), content)
            # A daemon: a process that is told to end does not wait for it. The thread removes the snapshot.
            arguments = (content, scratch.pop_all())
            self._thread = threading.Thread(target=self._upload, args=arguments, name="upload", daemon=True)
            self._thread.start()

    def _upload(self, content: Path, scratch: ExitStack) -> None:
        try:
            with scratch:
                self._copy(content).upload(lambda: not self._stop.is_set())
        except BaseException as error:  # for the training's own thread
            self._error = error

    def _copy(self, content: Path) -> RemoteCopy:
        url = self._recipe.operations.remote_dir
        assert url is not None, "there is something to upload to"
        return RemoteCopy(url, self._out, content)


def take_snapshot(copy: RemoteCopy, content: Path) -> None:
    """Put all that an upload sends of a run folder into another folder of the same disk, as it is at one moment.

    Args:
        copy: of the folder. Checkpoints may come and go there meanwhile.
        content: an empty folder.

    Raises:
        RunError: for a symlink, which no copy follows.
    """
    while True:
        try:
            for name in copy.names():
                _take(copy.path_of(name), content / name)
            return
        except FileNotFoundError:  # a newer checkpoint has just replaced it: look again
            shutil.rmtree(content)
            content.mkdir()


def _take(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix not in _GROWING:
        try:
            os.link(path, target)
            return
        except FileNotFoundError:
            raise
        except OSError:  # a file system without links
            logger.debug(f"{path} is copied: this disk has no links")
    shutil.copy2(path, target)  # with its times, which tell the copy what it has read before
