"""What is compared takes turns, so that other load on the machine falls on all of it."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from tqdm import tqdm

Work = Callable[[], object]


def in_turns(works: Mapping[str, Work], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Return each work's seconds in each round, after `warm_up` rounds that do not count."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for round_ in tqdm(range(warm_up + rounds), leave=False):
        for name, work in works.items():
            seconds = _timed(work)
            if round_ >= warm_up:
                spent[name].append(seconds)
    return spent


def medians(works: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Return each work's median seconds."""
    return {name: statistics.median(seconds) for name, seconds in in_turns(works, rounds).items()}


def median_ratio(spent: Mapping[str, list[float]], one: str, other: str) -> float:
    """Return the median over the rounds of the ratio of `one`'s seconds to `other`'s."""
    return statistics.median(a / b for a, b in zip(spent[one], spent[other], strict=True))


def _timed(work: Work) -> float:
    _wait_for_gpu()
    started = time.perf_counter()
    work()
    _wait_for_gpu()
    return time.perf_counter() - started


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
