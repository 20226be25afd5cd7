"""Several processes paint the dataset that one would."""

import threading
from pathlib import Path

import psutil
import pytest
from small_runs import paint, small_recipe
from workplace import wait_for

import flows.stages.synthesize as stage
from flows.config.schema import Recipe
from flows.orchestration.progress import Bar
from flows.stages.painters import paint_together
from synth.errors import DatasetError

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


def shards(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_the_dataset_is_that_of_one_process(
    prefect_server: None, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_at = []

    class SeenBar(Bar):
        def close(self) -> None:
            ended_at.append(self.n)
            super().close()

    monkeypatch.setattr(stage, "Bar", SeenBar)
    alone = Path(paint(recipe, tmp_path / "alone"))
    assert stage.synthesize_flow(recipe, str(tmp_path / "together")) == 5
    assert len(shards(alone)) == 3
    assert shards(tmp_path / "together") == shards(alone)
    assert (tmp_path / "together" / "grid.png").read_bytes() == (alone / "grid.png").read_bytes()
    assert ended_at == [5], "the bar counts for all"


def test_the_first_error_ends_all_in_one_line(tiny_sd_folder: Path, tmp_path: Path) -> None:
    hopeless = of_images(tiny_sd_folder, 5, "scenes.filters.min_contrast=128", "scenes.filters.max_attempts=2")
    with Bar("painting", 5, "image") as bar, pytest.raises(DatasetError, match="contrast") as ended:
        paint_together(hopeless, str(tmp_path / "data"), SHARDS, 2, bar)
    assert "\n" not in str(ended.value)
    assert not shards(tmp_path / "data")


def test_a_killed_process_ends_the_others_and_keeps_shards(many: Recipe, tmp_path: Path) -> None:

    def painters() -> list[psutil.Process]:
        children = psutil.Process().children(recursive=True)
        return [process for process in children if "flows.stages.painters" in process.cmdline()]

    def kill_one() -> None:
        wait_for(lambda: len(shards(tmp_path / "data")) > 2, "the first shards")
        painters()[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    with Bar("painting", 1000, "image") as bar, pytest.raises(DatasetError, match="repeat the command"):
        paint_together(many, str(tmp_path / "data"), range(500), 2, bar)
    killer.join()
    assert not painters()
    assert len(shards(tmp_path / "data")) > 2
