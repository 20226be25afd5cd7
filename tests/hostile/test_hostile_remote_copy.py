"""A remote copy's index and pointer come from outside: they reach nothing beyond the run's own files."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from flows.config.loading import load_recipe
from flows.run.remote_copy import RemoteCopy
from flows.run.remote_state import is_run_file
from flows.run.uploads import download
from synth.dataset.store import Store
from synth.errors import DatasetError, RunError


@pytest.fixture
def far() -> Iterator[str]:
    fsspec.filesystem("memory").store.clear()
    yield "memory://runs"
    fsspec.filesystem("memory").store.clear()


def copy(url: str, folder: Path) -> RemoteCopy:
    return RemoteCopy(url, folder)


def entry(content: bytes = b"theirs") -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def put_index(url: str, files: Any, **more: Any) -> None:
    Store(f"{url}/run").write("index.json", json.dumps({"files": files, **more}).encode())


OUTSIDE = ["/tmp/x", "../x", "../../recipe.toml", "student/../../recipe.toml", "checkpoints/../recipe.toml"]
FOREIGN = ["index.json", ".remote_copy.json", ".bashrc", "dataset/data/train-00000.parquet", "a.py", "", "student/"]
ODD = ["student/../config.json", "recipe.toml\n", "./recipe.toml", "student\\config.json", "student/.config.json"]


@pytest.mark.parametrize("name", [*OUTSIDE, *FOREIGN, *ODD])
def test_an_index_names_run_files_alone(far: str, tmp_path: Path, name: str) -> None:
    assert not is_run_file(name)
    folder = tmp_path / "a" / "run"
    folder.mkdir(parents=True)
    victim = tmp_path / "recipe.toml"
    victim.write_text("mine")
    for index in ({"files": {name: entry()}}, {"files": {}, "pending": {name: entry()}}):
        put_index(far, **index)
        before = sorted(tmp_path.rglob("*"))
        for act in (copy(far, folder).download, copy(far, folder).upload):
            with pytest.raises(RunError, match="not a run's file"):
                act()
        assert sorted(tmp_path.rglob("*")) == before and victim.read_text() == "mine"


@pytest.mark.parametrize("place", ["student", "student/config.json"])
def test_nothing_goes_through_a_symlink(far: str, tmp_path: Path, place: str) -> None:
    folder, outside = tmp_path / "a" / "run", tmp_path / "outside"
    (folder / place).parent.mkdir(parents=True)
    outside.mkdir()
    (outside / "config.json").write_text("mine")
    (folder / place).symlink_to(outside if place == "student" else outside / "config.json")
    Store(f"{far}/run").write("student/config.json", b"theirs")
    for files in ({}, {"student/config.json": entry()}):
        put_index(far, files)
        for act in (copy(far, folder).download, copy(far, folder).upload):
            with pytest.raises(RunError, match="is a symlink"):
                act()
    assert (outside / "config.json").read_text() == "mine"
    assert Store(f"{far}/run").read("student/config.json") == b"theirs"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"files": {"recipe.toml": 1e400}}',
        b'{"recipe.toml": 17000000000}',
        b'{"files": {"recipe.toml": {"size": -1, "sha256": "%s"}}}' % (b"0" * 64),
        b'{"files": {"recipe.toml": {"size": true, "sha256": "%s"}}}' % (b"0" * 64),
        b'{"files": {"recipe.toml": {"size": 1, "sha256": "short"}}}',
    ],
)
def test_a_damaged_index_is_one_line(far: str, tmp_path: Path, content: bytes) -> None:
    Store(f"{far}/run").write("index.json", content)
    with pytest.raises(RunError, match=r"index\.json is damaged") as refused:
        copy(far, tmp_path / "a" / "run").download()
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_a_file_that_is_not_what_the_index_says_takes_no_place(far: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    folder.mkdir(parents=True)
    Store(f"{far}/run").write("recipe.toml", b"another")
    put_index(far, {"recipe.toml": entry()})
    with pytest.raises(RunError, match="not what its index says"):
        copy(far, folder).download()
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "pointer",
    [
        *(
            "",
            "[]",
            "[" * 100_000,
            '{"model": 3, "measured": null}',
            '{"model": "run/model.onnx", "made_from": "0", "measured": 3}',
        ),
        *(
            json.dumps({"model": model, "made_from": "0", "measured": None})
            for model in ("../../x/model.onnx", "/x/model.onnx", "../model.onnx", "run/stages.json", "./model.onnx")
        ),
    ],
)
def test_a_pointer_names_a_model_beside_it(far: str, tmp_path: Path, pointer: str) -> None:
    Store(far).write("sofas.latest.json", pointer.encode())
    recipe = load_recipe("sofas", [f'operations.remote_dir="{far}"'])
    with pytest.raises(RunError, match="cannot be read"):
        download(recipe, tmp_path / "a" / "run")
    assert not (tmp_path / "a" / "sofas.latest.json").exists()


def test_what_both_sides_changed_is_refused_and_stays(far: str, tmp_path: Path) -> None:
    here, there = tmp_path / "a" / "run", tmp_path / "b" / "run"
    here.mkdir(parents=True)
    (here / "metrics.jsonl").write_text("1")
    copy(far, here).upload()
    copy(far, there).download()
    (there / "metrics.jsonl").write_text("1 2")
    copy(far, there).upload()
    (here / "metrics.jsonl").write_text("1 3")
    for act in (copy(far, here).download, copy(far, here).upload):
        with pytest.raises(RunError, match=r"both changed metrics\.jsonl since they last agreed: move"):
            act()
    assert (here / "metrics.jsonl").read_text() == "1 3"
    assert Store(f"{far}/run").read("metrics.jsonl") == b"1 2"


def test_a_training_that_starts_anew_erases_nothing_of_the_copy(far: str, tmp_path: Path) -> None:
    here, anew = tmp_path / "a" / "run", tmp_path / "b" / "run"
    old, young = "checkpoints/step_000900/state.json", "checkpoints/step_000001/state.json"
    for folder, name in ((here, old), (anew, young)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("{}")
    copy(far, here).upload()
    copy(far, anew).upload()
    index = json.loads(Store(f"{far}/run").read("index.json"))["files"]
    assert set(index) == {old, young} and Store(f"{far}/run").exists(old)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/runs", "data:,x", "zip://runs::file:///tmp/none.zip"])
def test_storage_that_only_reads_is_refused_at_the_start(tmp_path: Path, url: str) -> None:
    recipe = load_recipe("demo", [f'operations.remote_dir="{url}"'])
    with pytest.raises(DatasetError, match=r"is read-only|cannot be"):
        download(recipe, tmp_path / "run")


def test_storage_that_refuses_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recipe = load_recipe("demo", [f'operations.remote_dir="{tmp_path / "file"}"'])
    with pytest.raises(DatasetError, match="cannot be written"):
        download(recipe, tmp_path / "run")
