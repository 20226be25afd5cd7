"""Join the calls that many threads make at the same time into few passes of the network.

On a GPU eight images take little longer than one. So a call waits a few milliseconds for others of its size, and
while one pass runs, those that arrive meanwhile gather for the next.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inference.runtime import MAX_BATCH, FloatArray, Translator, UInt8Array, max_batch

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

WINDOW_S = 0.003  # how long the first call of a pass waits for others: a tenth of what the smallest pass takes
Run = Callable[[UInt8Array, npt.NDArray[np.int64], FloatArray], FloatArray]


@dataclass(eq=False)
class _Call:
    """One thread's images, and where it waits for its answer."""

    images: UInt8Array  # (N, h, w, 3)
    edits: npt.NDArray[np.int64]  # (N,)
    strengths: FloatArray  # (N,)
    arrived_s: float = field(default_factory=time.monotonic)
    answer: "Future[FloatArray]" = field(default_factory=Future)


class Batcher:
    """Callable like `run`, from any thread; calls of the same image size share a run.

    run: uint8 images (N, h, w, 3), int64 edits (N,), float32 strengths (N,) -> float32 (N, ...), one answer an image
        that does not depend on its neighbours. It is called from one thread alone.
    most: images in one run, fewer of large ones, unless a single call brings more.
    """

    def __init__(self, run: Run, most: int = MAX_BATCH, window_s: float = WINDOW_S):
        self._run = run
        self._most = most
        self._window_s = window_s
        self._waiting: list[_Call] = []  # oldest first
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def __call__(self, images: UInt8Array, edits: npt.NDArray[np.int64], strengths: FloatArray) -> FloatArray:
        """Wait for this call's part of a run; raises what the run raises, and RuntimeError once closed."""
        call = _Call(images, edits, strengths)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._waiting.append(call)
            self._changed.notify_all()
        return call.answer.result()

    def close(self) -> None:
        """Refuse new calls, answer those that wait, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while calls := self._next_batch():
            try:
                answers = self._answers(calls)
            except Exception as error:
                if len(calls) == 1:
                    calls[0].answer.set_exception(error)
                    continue
                for call in calls:  # one bad call, or too much memory for all at once: each by itself
                    self._answer_alone(call)
            else:
                for call, answer in zip(calls, answers, strict=True):
                    call.answer.set_result(answer)

    def _answers(self, calls: list[_Call]) -> list[FloatArray]:
        joined = (
            np.concatenate([call.images for call in calls]),  # (sum of N, h, w, 3)
            np.concatenate([call.edits for call in calls]),
            np.concatenate([call.strengths for call in calls]),
        )
        ends = np.cumsum([len(call.images) for call in calls])
        return np.split(self._run(*joined), ends[:-1])

    def _answer_alone(self, call: _Call) -> None:
        try:
            call.answer.set_result(self._run(call.images, call.edits, call.strengths))
        except Exception as error:
            call.answer.set_exception(error)

    def _next_batch(self) -> list[_Call]:
        """The oldest call and those that fit with it, once its window is over or the batch full; none at the end."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            while self._waiting:
                batch = self._matching()
                full = sum(len(call.images) for call in batch) >= self._room(batch[0])
                left_s = self._waiting[0].arrived_s + self._window_s - time.monotonic()
                if full or left_s <= 0 or self._closed:
                    self._waiting = [call for call in self._waiting if call not in batch]
                    return batch
                self._changed.wait(left_s)
            return []

    def _matching(self) -> list[_Call]:
        """The calls of the oldest one's image size, as many as fit into one run."""
        oldest, *others = self._waiting
        batch, num_images = [oldest], len(oldest.images)
        for call in others:
            fits = num_images + len(call.images) <= self._room(oldest)
            if fits and call.images.shape[1:] == oldest.images.shape[1:]:
                batch.append(call)
                num_images += len(call.images)
        return batch

    def _room(self, call: _Call) -> int:
        """How many images of a call's size fit into one run."""
        return min(self._most, max_batch(*call.images.shape[1:3]))


class BatchingTranslator(Translator):
    """A Translator whose calls from many threads share passes of the network; `close` it in the end."""

    def __init__(self, session: "InferenceSession", metadata: dict[str, Any]):
        super().__init__(session, metadata)
        self._batcher = Batcher(super()._difference)

    def _difference(self, images: UInt8Array, edits: npt.NDArray[np.int64], strengths: FloatArray) -> FloatArray:
        return self._batcher(images, edits, strengths)

    def close(self) -> None:
        """Answer what waits, and refuse what comes later."""
        self._batcher.close()
