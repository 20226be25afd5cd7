"""A run folder's copy behind a URL: a machine that is lost leaves it to the next."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from small_runs import small_recipe

from flows.run.remote_copy import RemoteCopy
from flows.stages.distill import distill_flow
from synth.dataset.store import Store
from synth.errors import DatasetError


@pytest.fixture
def far() -> Iterator[str]:
    """Storage without folders or renames, like an object store's."""
    fsspec.filesystem("memory").store.clear()
    yield "memory://runs"
    fsspec.filesystem("memory").store.clear()


def mirror(url: str, folder: Path) -> RemoteCopy:
    return RemoteCopy(url, folder, folder.parent / "sofas.latest.json")


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_what_is_copied_comes_back_and_only_changes_travel(far: str, tmp_path: Path) -> None:
    here, there = tmp_path / "a" / "run", tmp_path / "b" / "run"
    (here / "checkpoints" / "step_000020" / "student").mkdir(parents=True)
    (here / "checkpoints" / "step_000020" / "student" / "weights").write_bytes(b"20")
    (here / "stages.json").write_text("{}")
    (here / "latents").mkdir()
    (here / "latents" / "big").write_bytes(b"made again")
    (here / "checkpoints" / ".step_000040.part").mkdir()
    (here / "checkpoints" / ".step_000040.part" / "half").write_bytes(b"")
    (here.parent / "sofas.latest.json").write_text("{}")
    assert mirror(far, here).push() == ["checkpoints/step_000020/student/weights", "stages.json"]
    assert mirror(far, here).push() == []
    assert len(mirror(far, there).fetch()) == 2 and mirror(far, there).fetch() == []
    assert files(there) == {"checkpoints/step_000020/student/weights": b"20", "stages.json": b"{}"}
    assert (there.parent / "sofas.latest.json").exists()

    shutil.move(there / "checkpoints" / "step_000020", there / "checkpoints" / "step_000040")
    assert mirror(far, there).push() == ["checkpoints/step_000040/student/weights"]
    assert set(json.loads(Store(f"{far}/run").read("index.json"))) == {
        "checkpoints/step_000040/student/weights",
        "stages.json",
    }
    assert not Store(f"{far}/run").exists("checkpoints/step_000020/student/weights")
    assert mirror(far, here).fetch() == ["checkpoints/step_000040/student/weights"], "the first machine is back"


def test_a_copy_that_was_cut_off_is_as_the_last_whole_one(
    far: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "a" / "run", tmp_path / "b" / "run"
    here.mkdir(parents=True)
    for name in ("first", "second"):
        (here / name).write_text("old")
    mirror(far, here).push()
    for name in ("third", "fourth"):
        (here / name).write_text("new")
    upload = Store.upload

    def cut_off(store: Store, name: str, path: Path) -> None:
        upload(store, name, path)
        raise DatasetError("the line is cut")

    monkeypatch.setattr(Store, "upload", cut_off)
    with pytest.raises(DatasetError):
        mirror(far, here).push()
    monkeypatch.undo()
    mirror(far, there).fetch()
    assert files(there) == {"first": b"old", "second": b"old"}


def test_a_lost_machine_s_training_goes_on_on_another(
    far: str, finished: Path, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    """The first machine dies after the second step's checkpoint was copied; another ends the training, to the bit."""
    recipe = small_recipe(tiny_sd_folder, f'operations.remote_dir="{far}"')
    painted = str(finished / "dataset")
    distill_flow(recipe, tmp_path / "a" / "run", painted)
    store, weights = Store(f"{far}/run"), "student/diffusion_pytorch_model.safetensors"
    assert store.read(weights) == (finished / weights).read_bytes()

    index = json.loads(store.read("index.json"))
    half = {name: made for name, made in index.items() if "step_000002" in name or name == "recipe.toml"}
    store.write("index.json", json.dumps(half).encode())
    distill_flow(recipe, tmp_path / "b" / "run", painted)
    assert (tmp_path / "b" / "run" / weights).read_bytes() == (finished / weights).read_bytes()
    steps = (tmp_path / "b" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in steps] == [3, 4], "it went on; it did not begin anew"
