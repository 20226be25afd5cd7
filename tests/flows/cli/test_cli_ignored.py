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


@pytest.mark.parametrize("option", [("--num-images", "4"), ("--runner", "threads"), ("--ray-address", "ray://h:1")])
@pytest.mark.parametrize("verb", ["run", "synthesize"])
@pytest.mark.usefixtures("place")
def test_photographs_are_not_painted(verb: str, option: tuple[str, str]) -> None:
    line = refused(verb, "zombie", *option, "--out", "out")
    assert line == f"Error: {option[0]} has no effect on a recipe of photographs, which paints nothing"


@pytest.mark.parametrize("option", [("--runner", "threads"), ("--ray-address", "ray://h:1", "--runner", "ray")])
@pytest.mark.usefixtures("place")
def test_a_dry_run_paints_here(option: tuple[str, ...]) -> None:
    line = refused("synthesize", "demo", "--dry-run", *option, "--out", "out")
    assert line.endswith("has no effect with --dry-run, which paints one batch in this process")


@pytest.mark.parametrize("key", ["training.steps=5", "scenes.count = 7", "edits.x={a='b'}", "name='x'"])
@pytest.mark.usefixtures("place")
def test_compress_changes_nothing_that_comes_before_it(key: str) -> None:
    before = Path("run/recipe.toml").read_bytes()
    name = key.partition("=")[0].strip()
    line = refused("compress", "run", "--set", "pixel.steps=5", "--set", key)
    assert line == f"error: --set {name} has no effect on a student that is trained already"
    assert Path("run/recipe.toml").read_bytes() == before


@pytest.mark.parametrize("teacher", [(), ("--teacher", "miniature"), ("--teacher", ".")])
@pytest.mark.usefixtures("place")
def test_a_revision_is_of_the_hub(teacher: tuple[str, ...]) -> None:
    line = refused("edit", "photo.png", "--prompt", "an igloo", "--revision", "v1", *teacher, "--out", "out")
    assert line.startswith("Error: --revision has no effect on a teacher that is here")


@pytest.mark.usefixtures("place")
def test_a_server_with_a_token_answers_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "a-secret-of-16-letters"
    names = ("serve", "model.onnx", "--allowed-host", "edits.example")
    assert refused(*names, "--token", token) == (
        "Error: --allowed-host has no effect with a token, with which any name will do"
    )
    monkeypatch.setenv("DISTILLERY_TOKEN", token)
    assert "--allowed-host has no effect" in refused(*names)
    monkeypatch.delenv("DISTILLERY_TOKEN")
    assert "no model file at model.onnx" in refused(*names)


def test_videos_keep_their_format(place: Path, model: Path) -> None:
    (place / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(64))
    video = ("translate", str(model), "clip.mp4", "--edit", "red leather", "--format", "png", "--out", "out")
    assert refused(*video) == "Error: --format has no effect on videos, which keep their own"


@pytest.mark.usefixtures("place")
def test_a_training_takes_the_whole_dataset() -> None:
    line = refused("distill", "demo", "--data", "sets", "--num-images", "5", "--out", "out")
    assert line.startswith("Error: No such option") and "--num-images" in line
