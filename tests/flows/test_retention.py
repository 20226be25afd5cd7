"""Which old runs may go, and what of theirs somebody else uses."""

import logging
import os
import shutil
import time
from pathlib import Path

import pytest
from finished_runs import ended

from flows.config.loading import load_recipe
from flows.config.schema import Recipe
from flows.run.dataset_link import write_link
from flows.run.folder import RunFolder
from flows.run.promotion import pointer_of, promote
from flows.run.retention import clear_old_runs


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("demo", ["operations.keep_runs=1"])


def aged(out: Path, days: float) -> Path:
    then = time.time() - 86_400 * days
    os.utime(out / "report.html", (then, then))
    return out


def with_images(run: Path, folder: str = "dataset") -> Path:
    shard = run / folder / "data" / "train-00000.parquet"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"images")
    return shard


def test_old_runs_are_deleted_as_the_recipe_says(recipe: Recipe, tmp_path: Path) -> None:
    runs = [ended(recipe, tmp_path / name) for name in "abcdef"]
    for age, out in enumerate(reversed(runs)):
        then = time.time() - 1000 * age
        os.utime(out / "report.html", (then, then))
    promote(recipe, runs[0])  # the oldest is the latest good one
    (runs[1] / "report.html").unlink()  # not finished, or at work
    ended(load_recipe("sofas"), tmp_path / "another")
    os.utime(tmp_path / "another" / "report.html", (1, 1))
    (tmp_path / "notes").mkdir()
    (tmp_path / ".old-killed").mkdir()  # somebody else's: no process of ours named it

    assert clear_old_runs(load_recipe("demo"), runs[-1]) == [], "no rule, nothing goes"
    assert clear_old_runs(load_recipe("demo", ["operations.keep_runs=2"]), runs[2]) == [runs[3]]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a", "b", "c", "e", "f", "another", "notes", ".old-killed", "demo.latest.json"}
    assert clear_old_runs(recipe, runs[-1]) == [runs[4], runs[2]]


@pytest.mark.parametrize("folder", ["dataset", "sets/first/painted"])
def test_a_dataset_that_another_run_uses_stays(recipe: Recipe, tmp_path: Path, folder: str) -> None:
    painter = aged(ended(recipe, tmp_path / "a"), 3)
    shard = with_images(painter, folder)
    finished = aged(ended(recipe, tmp_path / "b"), 2)
    unfinished, of_another = tmp_path / "c", aged(ended(load_recipe("sofas"), tmp_path / "d"), 9)
    RunFolder.open_or_create(recipe, unfinished)
    newest = ended(recipe, tmp_path / "e")
    promote(recipe, newest)
    for user in (finished, unfinished, of_another):
        write_link(user, str(painter / folder))
    assert clear_old_runs(recipe, newest) == [finished] and shard.read_bytes() == b"images"
    shutil.rmtree(unfinished)
    assert clear_old_runs(recipe, newest) == [] and shard.read_bytes() == b"images"
    shutil.rmtree(of_another)
    assert clear_old_runs(recipe, newest) == [painter]


def test_the_last_user_of_a_dataset_takes_it_along(recipe: Recipe, tmp_path: Path) -> None:
    painter, user = (aged(ended(recipe, tmp_path / name), age) for name, age in (("a", 3), ("b", 2)))
    with_images(painter)
    write_link(user, str(painter / "dataset"))
    newest = ended(recipe, tmp_path / "c")
    promote(recipe, newest)
    assert clear_old_runs(recipe, newest) == [user, painter]


def test_a_dataset_behind_links_and_urls_stays(recipe: Recipe, tmp_path: Path) -> None:
    painter = aged(ended(recipe, tmp_path / "a"), 3)
    shard = with_images(painter)
    newest = ended(recipe, tmp_path / "new")
    promote(recipe, newest)

    def stays() -> bool:
        return clear_old_runs(recipe, newest) == [] and shard.read_bytes() == b"images"

    user = tmp_path / "b"
    RunFolder.open_or_create(recipe, user)
    (user / "dataset").symlink_to(painter / "dataset")
    assert stays(), "a symlink in place of dataset.url"
    (user / "dataset").unlink()
    for url in (f"file://{painter / 'dataset'}", f"simplecache::file://{painter / 'dataset'}"):
        (user / "dataset.url").write_text(f"{url}\n")
        assert stays(), url
    (user / "dataset.url").unlink()
    (tmp_path / "elsewhere").mkdir()
    shutil.move(user, tmp_path / "elsewhere" / "b")
    write_link(tmp_path / "elsewhere" / "b", str(painter / "dataset"))
    user.symlink_to(tmp_path / "elsewhere" / "b")
    assert stays(), "a run behind a symlink"
    user.unlink()
    (tmp_path / "images").symlink_to(painter / "dataset")
    assert stays(), "a link to the dataset itself"
    (tmp_path / "images").unlink()
    write_link(newest, "s3://bucket/a/dataset")
    assert clear_old_runs(recipe, newest) == [painter]


def test_a_run_that_cannot_say_what_it_uses(recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, newest = aged(ended(recipe, tmp_path / "a"), 3), ended(recipe, tmp_path / "b")
    promote(recipe, newest)
    unknown = tmp_path / "c"
    RunFolder.open_or_create(recipe, unknown)
    (unknown / "dataset.url").write_bytes(b"\0")
    with caplog.at_level(logging.WARNING):
        assert clear_old_runs(recipe, newest) == [] and old.exists()
    assert f"{old} is old, and kept: nobody can tell whether {unknown} uses its dataset" in caplog.text
    (unknown / "dataset.url").unlink()
    assert clear_old_runs(recipe, newest) == [old]


def test_a_pointer_to_another_machine_s_model_ends_no_run(recipe: Recipe, tmp_path: Path) -> None:
    old, newest = aged(ended(recipe, tmp_path / "a"), 3), ended(recipe, tmp_path / "b")
    pointer_of(recipe, newest).write_text('{"model": "far/model.onnx", "made_from": "0", "measured": null}')
    assert clear_old_runs(recipe, newest) == [old]
