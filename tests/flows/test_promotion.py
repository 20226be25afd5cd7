"""Which model is the latest good one."""

import json
import shutil
from pathlib import Path

import pytest
from finished_runs import ended

from flows.config.loading import load_recipe
from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from flows.run.promotion import Verdict, check_latest, latest_model, pointer_of, promote
from synth.errors import RunError


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("demo", ["operations.tolerated_right=0.05", "operations.tolerated_psnr=0.5"])


def test_only_a_model_that_is_as_good_is_promoted(recipe: Recipe, tmp_path: Path) -> None:
    pointer = pointer_of(recipe, tmp_path / "a")
    assert pointer == tmp_path / "demo.latest.json"
    first = promote(recipe, ended(recipe, tmp_path / "a"))
    assert (first.promoted, latest_model(pointer)) == (True, tmp_path / "a" / "model.onnx")

    within = promote(recipe, ended(recipe, tmp_path / "b", right=0.86, psnr=24.6))
    assert within.promoted
    assert within.why == (
        "It replaces a/model.onnx: edits right 90.0% -> 86.0%; "
        "PSNR of edits 25.00 dB -> 24.60 dB; PSNR of no-ops 30.00 dB -> 29.60 dB."
    )
    assert latest_model(pointer) == tmp_path / "b" / "model.onnx"

    worse = promote(recipe, ended(recipe, tmp_path / "c", right=0.95, psnr=24.0))
    assert not worse.promoted
    assert "PSNR of edits 24.60 dB -> 24.00 dB (worse)" in worse.why
    assert "edits right 86.0% -> 95.0%;" in worse.why
    assert latest_model(pointer) == tmp_path / "b" / "model.onnx"
    marked = json.loads((tmp_path / "c" / "promotion.json").read_text())
    assert marked == {"promoted": False, "why": worse.why}
    assert (tmp_path / "c" / "model.onnx").exists(), "it is kept"

    fewer_right = promote(recipe, ended(recipe, tmp_path / "d", right=0.7, psnr=30.0))
    assert not fewer_right.promoted and "edits right 86.0% -> 70.0% (worse)" in fewer_right.why


def test_a_run_made_again_is_promoted(recipe: Recipe, tmp_path: Path) -> None:
    """A model is not compared with the one that was in its own folder before."""
    promote(recipe, ended(recipe, tmp_path / "a"))
    shutil.rmtree(tmp_path / "a")
    out = ended(recipe, tmp_path / "a", right=0.5)
    RunFolder(out).mark_done("export", "made from other settings")
    again = promote(recipe, out)
    assert again.promoted and "replaces the one that was in its folder" in again.why
    assert json.loads(pointer_of(recipe, out).read_text())["measured"]["means"][1]["right"] == 0.5


def test_a_second_verdict_on_the_same_run_writes_nothing(recipe: Recipe, tmp_path: Path) -> None:
    """It stays the first one, which says what the model was compared with."""
    promote(recipe, ended(recipe, tmp_path / "a"))
    out = ended(recipe, tmp_path / "b", right=0.95)
    first = promote(recipe, out)
    assert first.why.startswith("It replaces a/model.onnx: edits right 90.0% -> 95.0%;")
    files = [pointer_of(recipe, out), out / "promotion.json"]
    before = [(file.stat().st_mtime_ns, file.read_bytes()) for file in files]
    assert promote(recipe, out) == first
    assert [(file.stat().st_mtime_ns, file.read_bytes()) for file in files] == before
    for unread in ("half a verd", '{"promoted": false, "why": "Not promoted."}'):
        (out / "promotion.json").write_text(unread)
        assert promote(recipe, out) == Verdict(True, "It is the latest good model of its recipe, as before.")


def test_a_model_that_is_gone_loses(recipe: Recipe, tmp_path: Path) -> None:
    promote(recipe, ended(recipe, tmp_path / "a", right=1.0, psnr=40.0))
    out = ended(recipe, tmp_path / "b", right=0.5)
    pointer = pointer_of(recipe, out)
    assert not promote(recipe, out).promoted, "it is here"
    shutil.rmtree(tmp_path / "a")
    asked: list[str] = []

    def is_elsewhere(model: str) -> bool:
        asked.append(model)
        return True

    refused = promote(recipe, out, is_elsewhere)
    assert not refused.promoted and "edits right 100.0% -> 50.0% (worse)" in refused.why
    assert latest_model(pointer) == tmp_path / "a" / "model.onnx", "where another machine has it"
    assert asked == ["a/model.onnx"]
    assert promote(recipe, out) == Verdict(
        True, "It replaces a/model.onnx, which is gone, so there is nothing to compare it with."
    )
    assert latest_model(pointer) == out / "model.onnx"
    unmeasured = ended(recipe, tmp_path / "c", right=None)
    assert not promote(recipe, unmeasured).promoted
    shutil.rmtree(out)
    assert promote(recipe, unmeasured).promoted, "nor need it be measured on the same scenes"


def test_what_cannot_be_compared_is_not_promoted(recipe: Recipe, tmp_path: Path) -> None:
    assert promote(recipe, ended(recipe, tmp_path / "a", right=None)).promoted
    assert promote(recipe, ended(recipe, tmp_path / "b", right=None)).promoted, "nobody can say that it is worse"
    assert promote(recipe, ended(recipe, tmp_path / "c")).promoted, "measured beats unmeasured"
    assert "was not measured" in promote(recipe, ended(recipe, tmp_path / "d", right=None)).why
    on_fewer = promote(recipe, ended(recipe, tmp_path / "e", right=1.0, psnr=99.0, scenes=2))
    assert not on_fewer.promoted
    assert "measured on 2 scenes (test), and c/model.onnx on 100 scenes (test)" in on_fewer.why
    pointer_of(recipe, tmp_path / "e").unlink()
    assert promote(recipe, tmp_path / "e").promoted


def test_broken_pointers_say_what_to_do(recipe: Recipe, tmp_path: Path) -> None:
    pointer = pointer_of(recipe, tmp_path / "a")
    with pytest.raises(RunError, match="no run of the recipe has finished there yet"):
        latest_model(pointer)
    with pytest.raises(RunError, match="has no model file yet"):
        promote(recipe, tmp_path / "a")
    out = ended(recipe, tmp_path / "a")
    pointer.write_text('{"model": ')
    for read in (promote, check_latest):
        with pytest.raises(RunError, match=r"demo\.latest\.json cannot be read .*: delete it"):
            read(recipe, out)
