"""Judging beside the painting, and painting replacements ahead, change no byte of a dataset."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from noise_painter import NoisePainter
from tqdm import tqdm

from synth.dataset.building import DatasetBuilder
from synth.dataset.filters import Filters, is_near_duplicate
from synth.dataset.generate import completed, paint
from synth.dataset.prompts import Scene, Template
from synth.dataset.shards import Row, reject_row, scene_row
from synth.settings import SceneSettings

JUDGED_IN: list[str] = []
NEAR = {"near_duplicates": 24, "max_attempts": 400}


def moody(scene: Scene, pixels: np.ndarray) -> str | None:
    """Rejects two of five images, by their first pixel."""
    JUDGED_IN.append(threading.current_thread().name)
    return "dull" if pixels[0, 0, 0] % 5 < 2 else None


class Painter(NoisePainter):
    """Counts its calls; a tenth of its images is blacked out."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device)
        self.calls: list[list[int]] = []

    def __call__(self, prompts: list[str], generator: list[torch.Generator], **more: Any) -> Any:
        self.calls.append([each.initial_seed() for each in generator])
        output = super().__call__(prompts, generator, **more)
        output.nsfw_content_detected = [each.initial_seed() % 10 == 0 for each in generator]
        return output


def scenes(**filters: Any) -> SceneSettings:
    return SceneSettings(
        template="a {color} {thing}",
        slots={"color": ["red", "blue", "green"], "thing": ["sofa", "chair"]},
        **{"count": 40, "batch_size": 4, "shard_size": 13},
        filters={"python": f"{__name__}:moody", "max_attempts": 60, **filters},
    )


def built(settings: SceneSettings, folder: Path, painter: Painter) -> int:
    """Paint a dataset; returns how many calls of the painter its last pass took."""
    builder = DatasetBuilder(painter, settings, folder)  # type: ignore[arg-type]
    with tqdm(disable=True) as bar:
        for number in builder.missing_shards():
            builder.paint_shard(number, bar)
    before = len(painter.calls)
    builder.finish(0.0)
    return len(painter.calls) - before


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def tables(folder: Path) -> tuple[list[Row], list[Row]]:
    found = [sorted((folder / name).glob("*.parquet")) for name in ("data", "rejects")]
    rows = [[row for path in paths for row in pq.read_table(path).to_pylist()] for paths in found]
    return rows[0], sorted(rows[1], key=lambda row: (row["index"], row["attempt"]))


def one_by_one(settings: SceneSettings) -> tuple[list[Row], list[Row]]:
    """The rows and the rejects, painted by the plainest of programs: one image after the other."""
    painter: Any = Painter()
    settings = completed(settings, painter)
    template, filters = Template(settings), Filters(settings.filters, torch.device("cpu"))
    rejects: list[Row] = []

    def attempts(index: int) -> Iterator[Row]:
        for attempt in range(400):
            scene = template.scene(index, attempt)
            (image,) = paint(painter, settings, [scene])
            verdict = None if image is None else filters.judge(scene, np.asarray(image))
            if image is None or verdict is None or verdict.reason is not None:
                reason = "safety checker" if verdict is None else verdict.reason
                rejects.append(reject_row(scene, attempt, image, reason or ""))
                continue
            yield scene_row(scene, image, verdict.scores)
            rejects.append(reject_row(scene, attempt, image, "near duplicate of an earlier image"))

    streams = [attempts(index) for index in range(settings.count)]
    rows = [next(stream) for stream in streams]
    if settings.filters.near_duplicates is not None:
        seen = np.zeros(len(rows), np.uint64)
        for index, stream in enumerate(streams):
            while is_near_duplicate(
                np.uint64(int(rows[index]["phash"], 16)), seen[:index], settings.filters.near_duplicates
            ):
                rows[index] = next(stream)
            seen[index] = int(rows[index]["phash"], 16)
    return rows, sorted(rejects, key=lambda row: (row["index"], row["attempt"]))


@pytest.mark.parametrize("filters", [{}, NEAR], ids=["plain", "near duplicates"])
def test_a_set_is_the_same_however_it_is_painted(filters: dict[str, Any], tmp_path: Path) -> None:
    settings = scenes(**filters)
    JUDGED_IN.clear()
    built(settings, tmp_path / "at once", Painter())
    assert set(JUDGED_IN) == {"MainThread"}
    JUDGED_IN.clear()
    built(settings, tmp_path / "beside", Painter("cuda"))
    assert {name.partition("_")[0] for name in JUDGED_IN} == {"judging"}
    assert contents(tmp_path / "at once") == contents(tmp_path / "beside")
    rows, rejects = tables(tmp_path / "beside")
    want_rows, want_rejects = one_by_one(settings)
    assert rows == want_rows and rejects == want_rejects and len(rejects) > 10


def test_batches_are_those_of_one_thread(tmp_path: Path) -> None:
    """Also the last ones of a shard, which rejects of the batch before fill up."""
    alone, beside = Painter(), Painter("cuda")
    built(scenes(), tmp_path / "a", alone)
    built(scenes(), tmp_path / "b", beside)
    assert alone.calls == beside.calls


def test_a_batch_is_judged_while_the_next_is_painted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painted, judged = threading.Event(), threading.Event()
    judge = Filters.judge

    def waiting(filters: Filters, scene: Scene, pixels: np.ndarray) -> Any:
        assert painted.wait(30), "the second batch waits for the verdict on the first"
        judged.set()
        return judge(filters, scene, pixels)

    class Second(Painter):
        def __call__(self, *arguments: Any, **more: Any) -> Any:
            output = super().__call__(*arguments, **more)
            if len(self.calls) == 2:
                assert not judged.is_set()
                painted.set()
            return output

    monkeypatch.setattr(Filters, "judge", waiting)
    built(scenes(), tmp_path / "set", Second("cuda"))


def test_near_duplicates_share_batches(tmp_path: Path) -> None:
    painter = Painter()
    num_calls = built(scenes(**NEAR), tmp_path / "set", painter)
    _, rejects = tables(tmp_path / "set")
    replaced = sum(row["reason"].startswith("near duplicate") for row in rejects)
    assert replaced > 8, "an example that shows something"
    assert num_calls < replaced, "alone, each would take a call of a whole batch, and each reject after it another"


def test_an_error_of_a_filter_ends_the_painting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("a filter's own")

    monkeypatch.setattr(Filters, "judge", broken)
    with pytest.raises(ValueError, match="a filter's own"):
        built(scenes(), tmp_path / "set", Painter("cuda"))
    assert not list(tmp_path.rglob("*.parquet"))
