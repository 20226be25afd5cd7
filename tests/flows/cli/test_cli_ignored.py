"""What a verb would ignore is refused, in one line that names it."""

from pathlib import Path

import pytest
from PIL import Image
from small_runs import command

from flows.config.loading import load_recipe
from flows.run.folder import RunFolder

FEW = ("--num-scenes", "2")
EDITS = ("--guidance-scale", "3", "--learning-rate", "1")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a photograph and a run folder."""
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    RunFolder.open_or_create(load_recipe("demo"), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*line: str) -> str:
    result = command(*line)
    assert result.exit_code == 2 and not Path("out").exists(), result.output
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("study", "given", "ignored"),
    [
        ("steps", ("--steps", "5"), "--steps"),
        ("steps", ("photo.png", "--prompt", "an igloo"), "IMAGES"),
        ("leakage", ("--prompt", "an igloo"), "--prompt"),
        ("optimizer", ("--source", "a house"), "--source"),
        ("sweep", EDITS[:2], "--guidance-scale"),
        ("sweep", EDITS[2:], "--learning-rate"),
        ("ablations", EDITS[:2], "--guidance-scale"),
        ("guidance-bias", EDITS[2:], "--learning-rate"),
        ("guidance-bias", ("--steps", "5"), "--steps"),
        ("real-images", ("photo.png", "--prompt", "an igloo", *FEW), "--num-scenes"),
        ("compression", ("--run", "run", *EDITS[:2]), "--guidance-scale"),
        ("compression", ("--run", "run", "--teacher", "miniature"), "--teacher"),
    ],
)
@pytest.mark.usefixtures("place")
def test_a_study_refuses_what_it_ignores(study: str, given: tuple[str, ...], ignored: str) -> None:
    assert refused("study", study, *given, "--out", "out").startswith(
        f"Error: {ignored} has no effect on the study {study}"
    )


@pytest.mark.parametrize(
    ("study", "given"),
    [
        ("steps", (*FEW, *EDITS)),
        ("ablations", (*FEW, "--steps", "5")),
        ("real-images", ("photo.png", "--prompt", "an igloo", "--source", "a house", *EDITS)),
    ],
)
@pytest.mark.usefixtures("place")
def test_a_study_takes_the_rest(study: str, given: tuple[str, ...]) -> None:
    """It gets as far as the teacher, which is not there."""
    assert refused("study", study, *given, "--teacher", "./none", "--out", "out").startswith("error: ")
    assert "none" in refused("study", study, *given, "--teacher", "./none", "--out", "out")


@pytest.mark.parametrize(
    "judge", [("--source", "a sofa"), ("--lpips",), ("--clip", "some/clip"), ("--dino", "some/dino")]
)
@pytest.mark.parametrize("choice", [(), ("--split", "test"), ("--zero-shot", "1")])
@pytest.mark.usefixtures("place")
def test_judges_of_photographs_need_photographs(judge: tuple[str, ...], choice: tuple[str, ...]) -> None:
    line = refused("evaluate", "student", "run", *judge, *choice)
    assert line == f"Error: {judge[0]} has no effect without --images"


@pytest.mark.usefixtures("place")
def test_no_verb_drops_an_option() -> None:
    """Those of the other verbs."""
    edit = refused("edit", "photo.png", "--prompt", "an igloo", "--lambda-id", "0.3", "--out", "out")
    assert edit == "Error: --lambda-id has no effect without --method regularized-sds"
    for given in (("--slot", "pot=blue, white"), ("--negative-prompt", "blur")):
        photos = refused("init", "out", "--photos", "--subject", "a pot", "--edit", "snow=a pot in snow", *given)
        assert photos == f"Error: {given[0]} has no effect with --photos, which are not painted"
    for verb in ("run", "synthesize"):
        ray = refused(verb, "demo", "--ray-address", "ray://127.0.0.1:9", "--out", "out")
        assert ray == "Error: --ray-address has no effect without --runner ray"
    Path("bench").mkdir()
    Path("model.onnx").touch()
    student = ("--method", "student", "--model", "model.onnx", "--device", "cpu")
    pie = refused("evaluate", "pie-bench", "--data", "bench", *student, "--out", "out")
    assert pie == "Error: --device has no effect on --method student"


@pytest.mark.usefixtures("place")
def test_a_training_takes_the_whole_dataset() -> None:
    line = refused("distill", "demo", "--data", "sets", "--num-images", "5", "--out", "out")
    assert line.startswith("Error: No such option") and "--num-images" in line
