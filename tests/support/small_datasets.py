"""Small datasets of sofas, painted by a tiny teacher: settings, fixtures and what is compared of them."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synth.dataset.building import synthesize
from synth.dataset.prompts import Scene
from synth.settings import SceneSettings
from synth.teacher.teacher import Teacher

SOFAS: dict[str, Any] = {
    "template": "a {color} sofa with {wall} walls",
    "slots": {"color": ["red", "orange", "grey"], "wall": ["white", "green"]},
    "count": 7,
    "num_inference_steps": 2,
    "guidance_scale": 2.0,
    "batch_size": 2,
    "shard_size": 3,
}


def scenes(**overrides: Any) -> SceneSettings:
    return SceneSettings(**{**SOFAS, **overrides})


def contents(folder: Path) -> dict[str, bytes]:
    """The finished shards and tables of rejects; unfinished files have another ending."""
    found = [path for name in ("data", "rejects") for path in (folder / name).glob("*.parquet")]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(found)}


def no_red(scene: Scene, pixels: np.ndarray) -> str | None:
    """A filter as a recipe names it: rejects prompts that never pass, and every fourth seed."""
    if "red" in scene.prompt:
        return "red"
    return "unlucky" if scene.seed % 4 == 0 else None


PICKY = {"filters": {"python": f"{__name__}:no_red"}}


@pytest.fixture(scope="module")
def painted(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scenes in three shards."""
    folder = tmp_path_factory.mktemp("sofas")
    synthesize(tiny_teacher, scenes(), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def picked(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenes that passed `no_red`, in four shards."""
    folder = tmp_path_factory.mktemp("picked")
    synthesize(tiny_teacher, scenes(count=10, **PICKY), folder, progress=False)
    return folder


@pytest.fixture
def synth_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """The log of `synth` alone, even after a test that ran a command, which sends it to the terminal."""
    monkeypatch.setattr(logging.getLogger("synth"), "propagate", True)
    caplog.set_level(logging.INFO, logger="synth")
    only_synth = logging.Filter("synth")
    caplog.handler.addFilter(only_synth)
    yield caplog
    caplog.handler.removeFilter(only_synth)
