"""One pointer for the runs of all machines: the latest good model is that of all of them."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from finished_runs import ended

from flows.config.loading import load_recipe
from flows.config.schema import Recipe
from flows.run import remote_pointer
from flows.run.promotion import latest_model, pointer_of
from flows.run.remote_pointer import RemotePointer, promote_among_machines
from flows.run.retention import clear_old_runs
from flows.run.uploads import download, upload
from synth.dataset.store import Store
from synth.errors import RunError

FAR = "memory://runs"


@pytest.fixture
def recipe() -> Iterator[Recipe]:
    fsspec.filesystem("memory").store.clear()
    yield load_recipe("demo", [f'operations.remote_dir="{FAR}"', "operations.keep_runs=1"])
    fsspec.filesystem("memory").store.clear()


def finished(recipe: Recipe, out: Path, right: float) -> Path:
    """A run on a machine of its own, up to its promotion."""
    download(recipe, out)
    ended(recipe, out, right=right)
    upload(recipe, out)
    return out


def latest() -> str:
    """The run that the storage's pointer names."""
    run: str = json.loads(Store(FAR).read("demo.latest.json"))["model"].partition("/")[0]
    return run


def test_machines_that_end_together_agree_on_the_best(recipe: Recipe, tmp_path: Path) -> None:
    """Both have started from `old`; the later one is compared with the earlier one, not with `old`."""
    promote_among_machines(recipe, finished(recipe, tmp_path / "0" / "old", 0.8))
    a, b = (
        finished(recipe, tmp_path / machine / f"run-{machine}", right)
        for machine, right in (("a", 0.82), ("b", 0.95))
    )
    assert latest_model(pointer_of(recipe, a)).parent.name == "old"
    assert promote_among_machines(recipe, b).promoted and latest() == "run-b"
    verdict = promote_among_machines(recipe, a)
    assert not verdict.promoted and "edits right 95.0% -> 82.0% (worse)" in verdict.why
    assert latest() == "run-b"
    assert latest_model(pointer_of(recipe, a)) == a.parent / "run-b" / "model.onnx", "though it is not here"
    assert clear_old_runs(recipe, a) == [], "which fails no run"
    better = finished(recipe, tmp_path / "c" / "run-c", 0.99)
    assert promote_among_machines(recipe, better).promoted and latest() == "run-c"


@pytest.mark.parametrize(("right_of_the_other", "wins"), [(0.95, "run-b"), (0.81, "run-a")])
def test_a_pointer_that_moves_meanwhile_is_judged_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right_of_the_other: float, wins: str
) -> None:
    promote_among_machines(recipe, finished(recipe, tmp_path / "0" / "old", 0.8))
    a, b = (
        finished(recipe, tmp_path / "a" / "run-a", 0.85),
        finished(recipe, tmp_path / "b" / "run-b", right_of_the_other),
    )
    promote, calls = remote_pointer.promote, []

    def while_the_other_promotes(*arguments: object) -> object:
        verdict = promote(*arguments)  # type: ignore[arg-type]
        calls.append(verdict)
        if len(calls) == 1:
            promote_among_machines(recipe, b)
        return verdict

    monkeypatch.setattr(remote_pointer, "promote", while_the_other_promotes)
    verdict = promote_among_machines(recipe, a)
    assert verdict.promoted == (wins == "run-a") and "run-b/model.onnx" in verdict.why
    assert latest() == wins and json.loads((a / "promotion.json").read_text())["why"] == verdict.why


def test_a_pointer_that_never_rests_is_an_error(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, promote = finished(recipe, tmp_path / "a" / "run-a", 0.85), remote_pointer.promote
    turns: list[int] = []

    def while_another_writes(*arguments: object) -> object:
        turns.append(len(turns))
        entry = {"model": f"other-{len(turns)}/model.onnx", "made_from": "0", "measured": None}
        Store(FAR).write("demo.latest.json", json.dumps(entry).encode())
        return promote(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(remote_pointer, "promote", while_another_writes)
    with pytest.raises(RunError, match=r"memory://runs/demo\.latest\.json was another one at each of 10 readings"):
        promote_among_machines(recipe, a)
    assert latest() == "other-10"


def test_a_model_that_only_the_storage_has_still_counts(recipe: Recipe, tmp_path: Path) -> None:
    a, b = finished(recipe, tmp_path / "a" / "run-a", 0.95), finished(recipe, tmp_path / "b" / "run-b", 0.5)
    promote_among_machines(recipe, a)
    shutil.rmtree(a.parent)
    assert not promote_among_machines(recipe, b).promoted and latest() == "run-a"
    Store(f"{FAR}/run-a").remove("model.onnx")
    verdict = promote_among_machines(recipe, b)
    assert verdict.promoted and "run-a/model.onnx, which is gone" in verdict.why and latest() == "run-b"


def test_the_pointer_here_is_a_copy_of_the_storages(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So to start over it must be deleted there, too; a promotion that a kill kept from the storage is made again."""
    a, b = finished(recipe, tmp_path / "runs" / "run-a", 0.95), finished(recipe, tmp_path / "runs" / "run-b", 0.5)
    promote_among_machines(recipe, a)
    pointer = pointer_of(recipe, b)
    pointer.unlink()
    with caplog.at_level(logging.INFO):
        download(recipe, b)
    assert f"the latest good model is run-a/model.onnx, as {FAR}/demo.latest.json says" in caplog.text
    assert not promote_among_machines(recipe, b).promoted
    pointer.unlink()
    Store(FAR).remove(pointer.name)
    download(recipe, b)
    assert promote_among_machines(recipe, b).promoted and latest() == "run-b"
    # As a kill after the promotion here leaves it.
    remote_pointer.promote(recipe, a)
    assert latest_model(pointer).parent == a and latest() == "run-b"
    download(recipe, a)
    assert promote_among_machines(recipe, a).promoted and latest() == "run-a"


def test_a_pointer_from_before_the_storage_is_uploaded(recipe: Recipe, tmp_path: Path) -> None:
    a = ended(recipe, tmp_path / "run-a", right=0.95)
    remote_pointer.promote(recipe, a)
    b = finished(recipe, tmp_path / "run-b", 0.5)
    assert not promote_among_machines(recipe, b).promoted
    assert latest() == "run-a"


def test_an_expected_pointer_alone_is_replaced(recipe: Recipe, tmp_path: Path) -> None:
    local = tmp_path / "demo.latest.json"
    local.write_bytes(b"ours")
    pointer = RemotePointer(FAR, local)
    assert pointer.upload(None) and Store(FAR).read(local.name) == b"ours"
    Store(FAR).write(local.name, b"theirs")
    assert not pointer.upload(None) and not pointer.upload(b"another")
    assert Store(FAR).read(local.name) == b"theirs"
    assert pointer.upload(b"theirs") and pointer.upload(b"whatever"), "both are the same"
