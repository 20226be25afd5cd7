"""Which cards a run holds, on a machine with four of them; nothing else of such a machine is needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flows.config.loading import load_recipe
from flows.orchestration import gpu_lock
from flows.stages.frame import open_run


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What is held, each time that something is."""
    limits: list[tuple[str, ...]] = []

    @contextmanager
    def exclusive(*names: str) -> Iterator[None]:
        limits.append(names)
        yield

    monkeypatch.setenv("DISTILLERY_TRUST", "1")  # a recipe may name accelerate's file
    monkeypatch.setattr(gpu_lock, "exclusive", exclusive)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda card: SimpleNamespace(uuid=f"card-{card}"))
    return limits


@pytest.mark.parametrize(
    ("overrides", "cards"),
    [
        ([], [0]),
        (["teacher.device=cuda:2"], [2]),
        (["operations.processes=2"], [0, 1]),
        (["operations.processes=9"], [0, 1, 2, 3]),
        (['operations.accelerate_config="of-a-cluster.yaml"'], [0, 1, 2, 3]),
        (['operations.accelerate_config="of-a-cluster.yaml"', "teacher.device=cuda:2"], [0, 1, 2, 3]),
    ],
)
def test_a_run_holds_all_cards_that_it_takes(
    held: list[tuple[str, ...]], tmp_path: Path, overrides: list[str], cards: list[int]
) -> None:
    with open_run("{name}", load_recipe("demo", overrides), tmp_path / "run"):
        assert held == [tuple(f"gpu-card-{card}" for card in cards)]


def test_a_run_on_the_cpu_holds_none(held: list[tuple[str, ...]], tmp_path: Path) -> None:
    recipe = load_recipe("demo", ["teacher.device=cpu", 'operations.accelerate_config="of-a-cluster.yaml"'])
    with open_run("{name}", recipe, tmp_path / "run"):
        assert held == []
