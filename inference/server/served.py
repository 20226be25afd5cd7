"""What is served, by name: models that stay, and models that follow a pointer and are exchanged while requests run.

A request leases the model that is there when it begins, and has it to its end: it sees the old one or the new one,
never a part of each. The old one is closed when its last lease is over.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inference.pointer import SUFFIX, is_pointer, model_of, resolved
from inference.runtime import Translator, TranslatorError
from inference.server.batcher import BatchingTranslator
from inference.server.models import ServedTranslator, ServerError, digest_of, load_model

POLL_S = 2.0
"""How often a pointer is looked at."""
Tell = Callable[[str], None]


@dataclass(eq=False)
class _Slot:
    """The model under one name, and those before it that are still leased."""

    translator: Translator
    leases: dict[int, int] = field(default_factory=dict)
    """id of a translator -> how many requests have it."""


class Served(Mapping[str, Translator]):
    """The models by name. `served[name]` is the present one; who uses it for longer than a moment leases it."""

    def __init__(self, translators: Mapping[str, Translator], followers: Sequence["Follower"] = ()) -> None:
        self._slots = {name: _Slot(translator) for name, translator in translators.items()}
        self._followers = followers
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Translator:
        return self._slots[name].translator

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    @contextmanager
    def lease(self, name: str) -> Iterator[Translator]:
        """Hold the present model; raises KeyError for an unknown name."""
        slot = self._slots[name]
        with self._lock:
            translator = slot.translator
            slot.leases[id(translator)] = slot.leases.get(id(translator), 0) + 1
        try:
            yield translator
        finally:
            with self._lock:
                slot.leases[id(translator)] -= 1
                is_over = not slot.leases[id(translator)]
                if is_over:
                    del slot.leases[id(translator)]
                is_over = is_over and translator is not slot.translator
            if is_over:
                _close(translator)

    def exchange(self, name: str, translator: Translator) -> None:
        """Serve another model under a name from now on."""
        slot = self._slots[name]
        with self._lock:
            old, slot.translator = slot.translator, translator
            is_leased = id(old) in slot.leases
        if not is_leased:
            _close(old)

    def start(self) -> None:
        """Begin to follow the pointers."""
        for follower in self._followers:
            follower.start(self)

    def close(self) -> None:
        """Follow no more, and close the models; all requests must be answered."""
        for follower in self._followers:
            follower.stop()
        for slot in self._slots.values():
            _close(slot.translator)


class Follower:
    """Exchanges a served model whenever its pointer, or the file that it names, has changed.

    A new model is loaded and tried on a small image before it is served. One that cannot be is left out, in one line,
    until pointer or file change again; the present one stays.
    """

    name = ""
    """Of the model, which is known once it is loaded."""

    def __init__(self, pointer: Path, load: Callable[[str], ServedTranslator], tell: Tell) -> None:
        self._pointer = pointer
        self._load = load
        self._tell = tell
        self._seen = self._state()  # before the first model is loaded, so that no change after it is missed
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, served: Served) -> None:
        """Look at the pointer from time to time, in a thread."""
        self._thread = threading.Thread(target=self._follow, args=(served,), name=f"follow {self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a model that is being loaded is finished first."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _follow(self, served: Served) -> None:
        while not self._stop.wait(POLL_S):
            state = self._state()
            if state == self._seen:
                continue
            self._seen = state
            self._take(served)

    def _take(self, served: Served) -> None:
        """Serve what the pointer names now, if it can be served."""
        try:
            translator = self._load(str(model_of(self._pointer)))
            if digest_of(translator) == digest_of(served[self.name]):
                translator.close()
                return
            try:
                _try_out(translator)
            except BaseException:
                translator.close()
                raise
        except Exception as error:  # whatever is wrong with a new model, the present one goes on
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            self._tell(f"{self.name}: the new model is not served, the present one stays: {reason}")
            return
        served.exchange(self.name, translator)
        self._tell(f"{self.name}: serves {translator.file} now ({digest_of(translator)})")

    def _state(self) -> object:
        """What changes when there may be a new model: the pointer's and the file's inode, size and time."""
        try:
            return [_stamp(self._pointer), _stamp(model_of(self._pointer))]
        except (OSError, TranslatorError):
            return None


def _stamp(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _try_out(translator: Translator) -> None:
    """Raise if the network cannot edit a small image: its first run also sets it up."""
    image = np.full((64, 64, 3), 128, np.uint8)
    translator(image, next(iter(translator.edits)), 1.0)


def _close(translator: Translator) -> None:
    if isinstance(translator, BatchingTranslator):
        translator.close()


def load_models(
    locations: Iterable[str],
    providers: Sequence[str] | None = None,
    num_threads: int = 0,
    tell: Tell = lambda line: None,
) -> Served:
    """Open model files and pointers, each named as its metadata say, or by its file; `NAME=FILE` names it anew.

    Args:
        locations: of model files, `hf://owner/name`, or pointers `NAME.latest.json`, which are followed.
        providers: what to run on, best first.
        num_threads: CPU threads of a run; 0 leaves it to ONNX Runtime.
        tell: is told in a line when a followed model was exchanged, or could not be.

    Raises:
        ModelFileError: for what cannot be opened.
        ServerError: when two have the same name.
    """

    def load(path: str) -> ServedTranslator:
        return load_model(path, providers, num_threads)

    models: dict[str, Translator] = {}
    followers = []
    for location in locations:
        name, _, path = ("", "", location) if Path(location).exists() else location.rpartition("=")
        follower = Follower(Path(path), load, tell) if is_pointer(path) else None
        translator = load(resolved(path))
        name = name or str(translator.metadata.get("name") or Path(path.removesuffix(SUFFIX)).stem)
        if name in models:
            raise ServerError(f"two of the models are called {name}: name them anew, as in other={path}")
        models[name] = translator
        if follower is not None:
            follower.name = name
            followers.append(follower)
    return Served(models, followers)
