"""The models that are served: each file opened once, so that all answers come from the same bytes."""

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from inference.runtime import ModelFileError, Translator, TranslatorError
from inference.server.batcher import BatchingTranslator
from inference.server.limits import Refused

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DIGEST_HEADER = "X-Model-Digest"
_CHUNK_BYTES = 2**18
_MAX_TRIES = 5


class ServerError(TranslatorError):
    """The server cannot be set up as asked."""


class ModelBytes:
    """A model file held open: another one that takes its name changes nothing here."""

    def __init__(self, path: Path):
        """Raises OSError."""
        self._file: BinaryIO = path.open("rb")
        self._stat = os.fstat(self._file.fileno())
        self._lock = threading.Lock()  # a seek and its read belong together
        self.num_bytes = self._stat.st_size
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        self.digest = f"sha256:{digest.hexdigest()}"

    def check(self) -> None:
        """Raise Refused where somebody has written into the file: its bytes are of no model any more."""
        if not self.is_same(os.fstat(self._file.fileno())):
            raise Refused(503, "the model file was overwritten in place: replace files by renaming, and start anew")

    def chunks(self) -> Iterator[bytes]:
        """The bytes, from first to last."""
        at = 0
        while at < self.num_bytes:
            with self._lock:
                self._file.seek(at)
                chunk = self._file.read(min(_CHUNK_BYTES, self.num_bytes - at))
            if not chunk:
                return
            at += len(chunk)
            yield chunk

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def is_same(self, stat: os.stat_result) -> bool:
        """Whether these are the bytes that had this status."""
        return all(
            getattr(stat, key) == getattr(self._stat, key) for key in ("st_ino", "st_dev", "st_size", "st_mtime_ns")
        )


class ServedTranslator(BatchingTranslator):
    """A BatchingTranslator that holds on to the file that it was loaded from."""

    bytes: ModelBytes | None = None

    def __init__(self, session: "InferenceSession", metadata: dict[str, Any]):
        super().__init__(session, metadata)
        self.bytes = None

    def close(self) -> None:
        """Answer what waits, and let the file go."""
        super().close()
        if self.bytes is not None:
            self.bytes.close()


def load_model(path: str, providers: Sequence[str] | None = None, num_threads: int = 0) -> ServedTranslator:
    """Open a model file and hold it, so that what runs and what is sent to pages is the same.

    Raises ModelFileError for what cannot be opened, or is replaced again and again meanwhile.
    """
    for _ in range(_MAX_TRIES):
        before = _stat(Path(path))  # nothing for hf://, whose files never change in their cache
        translator = ServedTranslator.load(path, providers, num_threads)
        assert translator.file is not None
        try:
            held = ModelBytes(translator.file)
        except OSError:
            translator.close()
            continue
        # The same file before and after: so it is what was loaded in between.
        if before is None or held.is_same(before):
            translator.bytes = held
            return translator
        translator.close()
        held.close()
    raise ModelFileError(f"{path} is being replaced all the time: try again when it is finished")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def digest_of(translator: Translator) -> str | None:
    """Of the file that a translator was loaded from, where it holds it."""
    return translator.bytes.digest if isinstance(translator, ServedTranslator) and translator.bytes else None
