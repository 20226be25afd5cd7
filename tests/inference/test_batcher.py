"""Calls of many threads in few runs: each gets its own answer, whatever happens to the others."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from inference.server.batcher import Batcher


class Recorded:
    """A run that answers the sum of each image, times its strength, plus its edit; and remembers its batches."""

    def __init__(self, seconds: float = 0.0):
        self.batches: list[tuple[int, ...]] = []
        self._seconds = seconds
        self.threads: set[int] = set()

    def __call__(self, images: Any, edits: Any, strengths: Any) -> Any:
        self.batches.append(images.shape)
        self.threads.add(threading.get_ident())
        time.sleep(self._seconds)
        if (edits < 0).any():
            raise FloatingPointError(f"edit {edits.min()}")
        return images.sum((1, 2, 3)) * strengths + edits


def ask(batcher: Batcher, number: int, size: int = 2, num_images: int = 1) -> float:
    images = np.full((num_images, size, size, 3), number, np.uint8)
    answer = batcher(images, np.full(num_images, number), np.full(num_images, 0.5, np.float32))
    assert answer.shape == (num_images,)
    assert (answer == number * size * size * 3 * 0.5 + number).all()
    return float(answer[0])


def test_calls_of_one_size_share_runs_and_get_their_own_answers() -> None:
    run = Recorded(seconds=0.02)
    batcher = Batcher(run, most=8, window_s=0.05)
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda number: ask(batcher, number, size=2 + number % 2), range(64)))
    batcher.close()
    assert sum(shape[0] for shape in run.batches) == 64
    assert len(run.batches) <= 16
    assert max(shape[0] for shape in run.batches) <= 8
    assert len(run.threads) == 1


def test_a_lonely_call_waits_no_longer_than_the_window() -> None:
    run = Recorded()
    batcher = Batcher(run, window_s=0.2)
    began = time.monotonic()
    ask(batcher, 1)
    assert 0.2 <= time.monotonic() - began < 1.0
    batcher.close()


def test_a_call_of_many_images_is_one_answer_and_never_split() -> None:
    run = Recorded()
    batcher = Batcher(run, most=4, window_s=0)
    ask(batcher, 3, num_images=6)
    batcher.close()
    assert run.batches == [(6, 2, 2, 3)]


def test_large_images_share_a_run_in_fewer() -> None:
    run = Recorded()
    batcher = Batcher(run, window_s=0.3)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: ask(batcher, number, size=1024), range(4)))
    batcher.close()
    assert [shape[0] for shape in run.batches] == [2, 2], "full with two of 1024 px, as with eight of 512"


def test_one_bad_call_fails_alone() -> None:
    batcher = Batcher(Recorded(), window_s=0.1)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(ask, batcher, number) for number in (1, 2, 3)]
        image = np.zeros((1, 2, 2, 3), np.uint8)
        bad = pool.submit(batcher, image, np.array([-1]), np.ones(1, np.float32))
        with pytest.raises(FloatingPointError, match="edit -1"):
            bad.result()
        assert [call.result() for call in calls] == [7.0, 14.0, 21.0]
    ask(batcher, 5)
    batcher.close()


def test_closing_answers_what_waits_and_refuses_the_rest() -> None:
    batcher = Batcher(Recorded(seconds=0.05), most=2, window_s=60)
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(ask, batcher, number) for number in range(5)]
        time.sleep(0.02)
        while not all(call.running() or call.done() for call in calls):
            time.sleep(0.01)
        time.sleep(0.05)
        batcher.close()
        assert [call.result() for call in calls] == [0.0, 7.0, 14.0, 21.0, 28.0]
    with pytest.raises(RuntimeError, match="closed"):
        ask(batcher, 1)
