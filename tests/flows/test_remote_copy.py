"""A run folder's copy behind a URL: a machine that is lost leaves it to the next."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from small_runs import small_recipe

from flows.config.loading import load_recipe
from flows.run.remote_copy import RemoteCopy
from flows.run.uploads import download
from flows.stages.distill import distill_flow
from synth.dataset.store import Store
from synth.errors import DatasetError


@pytest.fixture
def far() -> Iterator[str]:
    """Storage without folders or renames, like an object store's."""
    fsspec.filesystem("memory").store.clear()
    yield "memory://runs"
    fsspec.filesystem("memory").store.clear()


def index_of(url: str) -> dict[str, Any]:
    index: dict[str, Any] = json.loads(Store(f"{url}/run").read("index.json"))
    return index


def copy(url: str, folder: Path) -> RemoteCopy:
    return RemoteCopy(url, folder)


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".remote_copy.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_what_is_copied_comes_back_and_only_changes_travel(far: str, tmp_path: Path) -> None:
    here, there = tmp_path / "a" / "run", tmp_path / "b" / "run"
    weights = "checkpoints/step_000020/student/weights.safetensors"
    (here / weights).parent.mkdir(parents=True)
    (here / weights).write_bytes(b"20")
    (here / "stages.json").write_text("{}")
    (here / "latents").mkdir()
    (here / "latents" / "big").write_bytes(b"made again")
    (here / "checkpoints" / ".step_000040.0123456789abcdef.part").mkdir()
    (here / "checkpoints" / ".step_000040.0123456789abcdef.part" / "state.json").write_bytes(b"")
    (here / "notes.txt").write_text("of mine")
    assert copy(far, here).upload() == [weights, "stages.json"]
    assert copy(far, here).upload() == []
    assert len(copy(far, there).download()) == 2 and copy(far, there).download() == []
    assert files(there) == {weights: b"20", "stages.json": b"{}"}

    shutil.move(there / "checkpoints" / "step_000020", there / "checkpoints" / "step_000040")
    later = "checkpoints/step_000040/student/weights.safetensors"
    assert copy(far, there).upload() == [later]
    assert set(index_of(far)["files"]) == {later, "stages.json"}
    assert not Store(f"{far}/run").exists(weights)
    assert copy(far, here).download() == [later], "the first machine is back"


def test_a_copy_that_was_cut_off_leaves_no_half_of_it(
    far: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "a" / "run", tmp_path / "b" / "run"
    here.mkdir(parents=True)
    for name in ("metrics.jsonl", "stages.json"):
        (here / name).write_text("old")
    copy(far, here).upload()
    for name in ("metrics.jsonl", "report.html", "stages.json"):
        (here / name).write_text("new")
    upload = Store.upload

    def cut_off(store: Store, name: str, path: Path) -> None:
        upload(store, name, path)
        raise DatasetError("the line is cut")

    monkeypatch.setattr(Store, "upload", cut_off)
    with pytest.raises(DatasetError):
        copy(far, here).upload()
    monkeypatch.undo()
    copy(far, there).download()
    assert files(there) == {"metrics.jsonl": b"new", "stages.json": b"old"}, "each whole, and what is done is last"
    copy(far, there).upload()
    assert copy(far, here).upload() == ["report.html", "stages.json"], "either machine may go on"


def test_what_was_made_before_is_uploaded_at_the_start(far: str, tmp_path: Path) -> None:
    """By a process that was killed before it could, or before the recipe had a remote folder."""
    recipe = load_recipe("demo", [f'operations.remote_dir="{far}"'])
    out = tmp_path / "run"
    download(recipe, out)
    assert not out.exists(), "a new run has nothing to upload"
    out.mkdir()
    for name in ("report.html", "stages.json"):
        (out / name).write_text("{}")
    download(recipe, out)
    assert set(index_of(far)["files"]) == {"report.html", "stages.json"}
    (out / "report.html").write_text("a later one")
    download(recipe, out)
    assert Store(f"{far}/run").read("report.html") == b"a later one"


def test_an_older_folders_state_is_read(far: str, tmp_path: Path) -> None:
    """It remembers the pointer's digest, which nobody needs any more."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.html").write_text("old")
    copy(far, folder).upload()
    state = json.loads((folder / ".remote_copy.json").read_text())
    (folder / ".remote_copy.json").write_text(json.dumps({**state, "pointer": "0" * 64}))
    Store(f"{far}/run").write("report.html", b"theirs")
    digest = hashlib.sha256(b"theirs").hexdigest()
    Store(f"{far}/run").write(
        "index.json", json.dumps({"files": {"report.html": {"size": 6, "sha256": digest}}}).encode()
    )
    assert copy(far, folder).download() == ["report.html"], "not a conflict: only the copy changed it"


def test_a_lost_machine_s_training_goes_on_on_another(
    far: str, finished: Path, tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first machine dies after the second step's checkpoint was copied; another ends the training, to the bit."""
    recipe = small_recipe(tiny_sd_folder, f'operations.remote_dir="{far}"')
    painted = str(finished / "dataset")
    monkeypatch.setenv("DISTILLERY_TRUST", "1")
    distill_flow(recipe, tmp_path / "a" / "run", painted)
    store, weights = Store(f"{far}/run"), "student/diffusion_pytorch_model.safetensors"
    assert store.read(weights) == (finished / weights).read_bytes()

    index = index_of(far)["files"]
    half = {name: entry for name, entry in index.items() if "step_000002" in name or name == "recipe.toml"}
    store.write("index.json", json.dumps({"files": half}).encode())
    distill_flow(recipe, tmp_path / "b" / "run", painted)
    assert (tmp_path / "b" / "run" / weights).read_bytes() == (finished / weights).read_bytes()
    steps = (tmp_path / "b" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in steps] == [3, 4], "it went on; it did not begin anew"
