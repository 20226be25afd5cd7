"""Several processes paint the dataset that one would."""

import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from small_runs import paint, small_recipe
from workplace import wait_for

import flows.stages.synthesize as stage
from flows.config.loading import with_overrides
from flows.config.schema import Recipe
from flows.orchestration.progress import Bar
from flows.stages import painters as painting
from flows.stages.painters import paint_together
from synth.errors import DatasetError

ROOT = Path(__file__).parents[2]
SHARDS = [0, 1, 2]


def of_images(teacher: Path, count: int, *more: str) -> Recipe:
    return small_recipe(teacher, f"scenes.count={count}", "scenes.shard_size=2", "operations.processes=2", *more)


@pytest.fixture(scope="module")
def recipe(tiny_sd_folder: Path) -> Recipe:
    """Five images in three shards."""
    return of_images(tiny_sd_folder, 5)


@pytest.fixture(scope="module")
def many(tiny_sd_folder: Path) -> Recipe:
    return of_images(tiny_sd_folder, 1000)


@pytest.fixture(scope="module")
def alone(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process paints."""
    return Path(paint(recipe, tmp_path_factory.mktemp("sets") / "alone"))


def shards(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def painters() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [process for process in children if "flows.stages.painters" in process.cmdline()]


@pytest.fixture
def ended_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where each bar stood at its end."""
    ends = []

    class SeenBar(Bar):
        def close(self) -> None:
            ends.append(self.n)
            super().close()

    monkeypatch.setattr(stage, "Bar", SeenBar)
    return ends


def test_the_dataset_is_that_of_one_process(
    prefect_server: None, recipe: Recipe, alone: Path, tmp_path: Path, ended_at: list[int]
) -> None:
    assert stage.synthesize_flow(recipe, str(tmp_path / "together")) == 5
    assert len(shards(alone)) == 3
    assert shards(tmp_path / "together") == shards(alone)
    assert (tmp_path / "together" / "grid.png").read_bytes() == (alone / "grid.png").read_bytes()
    assert ended_at == [5], "the bar counts for all"


def test_its_processes_start_without_prefect() -> None:
    """It takes as long to import as torch does, and each of them would."""
    program = "import sys, flows.stages.painters, flows.training.launcher; print('prefect' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (ran.stdout, ran.stderr) == ("False\n", "")


def test_the_first_error_ends_all_in_one_line(tiny_sd_folder: Path, tmp_path: Path) -> None:
    hopeless = of_images(tiny_sd_folder, 5, "scenes.filters.min_contrast=128", "scenes.filters.max_attempts=2")
    with Bar("painting", 5, "image") as bar, pytest.raises(DatasetError, match="contrast") as ended:
        paint_together(hopeless, str(tmp_path / "data"), SHARDS, 2, bar)
    assert "\n" not in str(ended.value)
    assert not shards(tmp_path / "data")


def test_a_killed_process_ends_the_others_and_keeps_shards(many: Recipe, tmp_path: Path) -> None:
    commands = []

    def kill_one() -> None:
        wait_for(lambda: len(shards(tmp_path / "data")) > 2, "the first shards")
        commands.extend(process.cmdline() for process in painters())
        painters()[-1].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    with Bar("painting", 1000, "image") as bar, pytest.raises(DatasetError) as ended:
        paint_together(many, str(tmp_path / "data"), range(500), 2, bar)
    killer.join()
    assert re.match(r"process [12] of the 2 that paint ended with signal 9 \(Killed\)", str(ended.value))
    assert str(ended.value).endswith("complete shards are kept, and the same command paints what is missing")
    assert [len(command) for command in commands] == [4, 4], "Windows takes no long command"
    assert not painters()
    assert len(shards(tmp_path / "data")) > 2


def test_another_attempt_leaves_finished_shards_alone(
    recipe: Recipe, alone: Path, tmp_path: Path, ended_at: list[int]
) -> None:
    """The first attempt painted two shards of three, when the storage failed."""
    data = Path(shutil.copytree(alone, tmp_path / "data"))
    (data / "data" / "train-00002.parquet").unlink()
    there = [path for number in SHARDS[:2] for path in data.glob(f"*/train-{number:05d}.*")]
    before = [path.stat().st_mtime_ns for path in there]
    stage.paint_together_task.fn(recipe, str(data), SHARDS, None)
    assert len(there) == 4, "two shards and their pages"
    assert [path.stat().st_mtime_ns for path in there] == before
    assert shards(data) == shards(alone)
    stage.paint_together_task.fn(recipe, str(data), SHARDS, None)  # nothing is missing, and nothing is started
    assert ended_at == [5]


FILTER = """
import logging

def odd(scene, pixels):
    logging.getLogger("synth.odd").warning("half as many sofas at a time")
    if scene.index == 2:
        raise KeyError("no such sofa")
"""


def test_a_crash_is_told_by_the_process_that_crashed(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second scene's shard is the second process's; both warn of the same."""
    (tmp_path / "odd_filter.py").write_text(FILTER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("DISTILLERY_TRUST", "1")
    said: list[tuple[str, str]] = []
    for level in ("warning", "error"):
        monkeypatch.setattr(painting.logger, level, partial(lambda *line: said.append(line), level))
    filtered = with_overrides(recipe, ['scenes.filters.python="odd_filter:odd"'])
    with Bar("painting", 5, "image") as bar, pytest.raises(DatasetError) as ended:
        paint_together(filtered, str(tmp_path / "data"), SHARDS, 2, bar)
    assert str(ended.value) == (
        "process 2 of the 2 that paint ended with exit code 1; its last line is \"KeyError: 'no such sofa'\"; "
        "complete shards are kept, and the same command paints what is missing"
    )
    assert said[:-1] == [("warning", "half as many sofas at a time")]
    level, tail = said[-1]
    assert level == "error" and tail.startswith("the output of process 2 of 2 ends with:\n")
    assert "Traceback (most recent call last):" in tail and tail.endswith("KeyError: 'no such sofa'")


def test_a_shard_that_takes_too_long_ends_all(many: Recipe, tmp_path: Path) -> None:
    hasty = with_overrides(many, ["operations.timeout_hours=1e-9"])
    with Bar("painting", 1000, "image") as bar, pytest.raises(DatasetError) as ended:
        paint_together(hasty, str(tmp_path / "data"), range(500), 2, bar)
    assert str(ended.value).startswith(
        "process 1 of the 2 that paint was at one shard for longer than operations.timeout_hours=1e-09, and was "
    )
    assert not painters()


def test_each_shard_has_the_whole_time(many: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(painting, "time", SimpleNamespace(monotonic=lambda: now))
    images, steps = tmp_path / "images", tmp_path / "steps"
    with ExitStack() as until_the_end:
        share = painting._Share(recipe=many, url="", rank=0, numbers=[0], images=images, steps=steps)
        painter = painting._Painter(share, tmp_path, until_the_end)
        until_the_end.close()
        for seconds, num_steps, at_it in ((100, 0, 100), (30, 1, 0), (90, 1, 90), (9, 2, 0), (1, 2, 1)):
            now += seconds
            steps.write_bytes(b"." * num_steps)
            images.write_bytes(b"." * int(now))  # images that pass do not make a shard shorter
            assert painter.seconds_on_a_shard() == at_it
