"""The command: quick help, and one line for what a person can mend."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tiny_model import EDITS, noise, properties, write_model

from flows.cli import main

HEAVY = "torch diffusers transformers prefect onnx onnxruntime pydantic numpy pyarrow"


def distillery(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def python(program: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    loaded = python(f"import sys, flows.cli; print(*sorted(set('{HEAVY}'.split()) & set(sys.modules)))")
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip() == ""


def test_every_verb_has_help_with_an_example() -> None:
    assert sorted(main.commands) == [
        *(
            "distill",
            "edit",
            "evaluate",
            "export",
            "import-photos",
            "init",
            "inspect",
            "preview",
            "publish",
            "run",
            "serve",
            "study",
            "synthesize",
            "translate",
        ),
    ]
    overview = distillery("--help").output
    for name in main.commands:
        assert name in overview
        page = distillery(name, "--help").output
        assert f"\n  distillery {name} " in page
        for parameter in main.commands[name].params:
            assert not isinstance(parameter, click.Option) or parameter.help, f"{name} --{parameter.name} has no help"


def test_the_base_install_says_what_is_missing(tmp_path: Path) -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(['torch', 'prefect', 'diffusers', 'onnx', 'pyarrow']));"
    ran = python(f"{absent} from flows.cli import main; main(['run', 'demo', '--out', {str(tmp_path / 'run')!r}])")
    assert ran.returncode == 2
    assert 'pip install "dds-distillery[pipeline]"' in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert python(f"{absent} import inference.runtime, flows.cli").returncode == 0


def test_telemetry_is_off_unless_asked_for() -> None:
    names = "PREFECT_SERVER_ANALYTICS_ENABLED", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY"
    clean = f"import os; [os.environ.pop(name, None) for name in {names}];"
    assert python(f"{clean} import flows; print(*map(os.environ.get, {names}))").stdout.split() == ["false", "1", "1"]
    kept = python("import os; os.environ['DO_NOT_TRACK'] = '0'; import flows; print(os.environ['DO_NOT_TRACK'])")
    assert kept.stdout.strip() == "0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "sofa"], "there is no recipe 'sofa'; did you mean 'sofas'?"),
        (["run", "demo", "--set", "training.stepz=3"], "unknown key training.stepz; did you mean 'steps'?"),
        (["synthesize", "demo", "--teacher", "no/such folder"], "'no/such folder' is neither a folder nor a Hub id"),
        (["synthesize", "demo", "--teacher", "owner/absent"], "owner/absent is not on this machine"),
    ],
)
def test_a_wrong_recipe_or_teacher_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = distillery(*arguments, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_photographs_become_a_set(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for level in (40, 200):
        Image.fromarray(np.full((70, 90, 3), level, np.uint8)).save(tmp_path / "photos" / f"{level}.png")
    arguments = ["import-photos", tmp_path / "photos", "--out", tmp_path / "set"]
    assert distillery(*arguments, "--size", "64").stdout == f"dataset  {tmp_path / 'set'}\n"
    assert (tmp_path / "set" / "preview.html").exists()
    assert "multiple of 8" in distillery(*arguments, "--size", "50").stderr


def test_a_training_needs_a_painted_set(tmp_path: Path) -> None:
    result = distillery("distill", "demo", "--data", tmp_path / "none", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr == f"error: no data set in {tmp_path / 'none'}: run `distillery synthesize` first\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["export", "evaluate student"])
def test_verbs_of_a_run_need_a_run(verb: str, tmp_path: Path) -> None:
    result = distillery(*verb.split(), tmp_path)
    assert result.exit_code == 2
    assert (
        result.stderr == f"error: {tmp_path} is no run folder: `distillery run RECIPE --out {tmp_path}` makes one\n"
    )


def test_translate_and_inspect_refuse_what_is_no_model(tmp_path: Path) -> None:
    picture = tmp_path / "room.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
    for arguments in (["translate", tmp_path / "m.onnx", picture, "--edit", "red"], ["inspect", tmp_path / "m.onnx"]):
        result = distillery(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: no model file at {tmp_path / 'm.onnx'}")
    assert distillery("inspect", picture).stderr.startswith(f"error: {picture} is not an ONNX model")


def test_usage_errors_exit_with_2(tmp_path: Path) -> None:
    assert distillery("run", "demo").exit_code == 2
    assert distillery("run", "demo", "--num-images", "0", "--out", tmp_path).exit_code == 2
    assert distillery("no-such-verb").exit_code == 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties(name="rooms"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images, one of them in a folder below; a text, and a hidden file."""
    folder = tmp_path / "photos"
    (folder / "old").mkdir(parents=True)
    Image.fromarray(noise(64, 64, 1)).save(folder / "a.png")
    Image.fromarray(noise(40, 80, 2)).save(folder / "old" / "b.PNG")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_translate_takes_folders_and_writes_a_contact_sheet(model: Path, photos: Path, tmp_path: Path) -> None:
    from inference.runtime import Translator

    out = photos / "edited"  # within the folder: a second call must not edit the first one's results
    for _ in range(2):
        result = distillery("translate", model, photos, "--edit", "all", "--out", out, "--provider", "cpu")
        assert result.exit_code == 0, result.output
        expected = [f"{name}_{edit}.png" for name in ("a", "old/b") for edit in ("blue-fabric", "red-leather")]
        assert files(out) == sorted([*expected, "contact_sheet.png"])
    assert sorted(result.stdout.split()) == sorted(str(out / name) for name in files(out))
    assert "2 images, 2 edits, on CPUExecutionProvider" in result.stderr
    edited = Translator.load(model)(photos / "a.png", "red leather")
    assert np.array_equal(Image.open(out / "a_red-leather.png"), edited)
    sheet = np.asarray(Image.open(out / "contact_sheet.png")).astype(int)
    cell = sheet[28 + 20 : 28 + 20 + 192]  # the first row, below header and name
    assert np.abs(cell[:, 8 : 8 + 192].mean((0, 1)) - noise(64, 64, 1).mean((0, 1))).max() < 2
    assert cell[:, 208 : 208 + 96, 0].mean() > cell[:, 8 : 8 + 96, 0].mean() + 40  # red leather, on the left half
    assert cell[:, 408 : 408 + 96, 2].mean() > cell[:, 8 : 8 + 96, 2].mean() + 40


def test_translate_takes_globs(model: Path, photos: Path, tmp_path: Path) -> None:
    for pattern, name in (("*.png", "a"), ("**/b.*", "b")):
        result = distillery("translate", model, photos / pattern, "--edit", "red leather", "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert files(tmp_path / name) == [f"{name}_red-leather.png", "contact_sheet.png"]


def test_a_bad_image_stops_no_other(model: Path, photos: Path, tmp_path: Path) -> None:
    cut = photos / "0cut.png"
    cut.write_bytes((photos / "a.png").read_bytes()[:3000])
    out = tmp_path / "out"
    inputs = [photos, tmp_path / "absent.png", photos / "*.jpg", photos / "notes.txt"]
    result = distillery("translate", model, *inputs, "--edit", "red leather", "--out", out)
    assert result.exit_code == 2
    assert files(out) == ["a_red-leather.png", "contact_sheet.png", "old/b_red-leather.png"]
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    for line, name in zip(errors, ("absent.png", "*.jpg", "0cut.png", "notes.txt"), strict=True):
        assert name in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--edit", "red lether"], "unknown edit 'red lether': did you mean 'red leather'?"),
        (["--edit", "all", "--strength", "11"], "strength is 11.0: give a number from -10 to 10"),
        (["--edit", "all", "--strength", "nan"], "strength is nan"),
        (["--edit", "all", "--provider", "cuda"], "onnxruntime has no CUDAExecutionProvider here"),
    ],
)
def test_what_is_wrong_for_all_images_is_told_before_any(
    options: list[str], message: str, model: Path, photos: Path, tmp_path: Path
) -> None:
    result = distillery("translate", model, photos, *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_two_results_are_never_one_file(model: Path, photos: Path, tmp_path: Path) -> None:
    Image.fromarray(noise(9, 9)).save(photos / "a.bmp")
    result = distillery("translate", model, photos, "--edit", "red leather", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert re.search(r"a\.png and .*a\.bmp would both become .*a_red-leather\.png: use two --out", result.stderr)
    blocked = tmp_path / "file"
    blocked.write_text("")
    result = distillery("translate", model, photos / "a.png", "--edit", "red leather", "--out", blocked / "out")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(f"error: cannot write {blocked / 'out' / 'a_red-leather.png'}: ")


def test_a_long_contact_sheet_ends_with_a_count(tmp_path: Path) -> None:
    from inference import translate

    sheet = translate.ContactSheet(["an edit whose name is much too long for the width of its column"])
    assert sheet.write(tmp_path) == []
    for number in range(translate.MAX_ROWS + 3):
        sheet.add(f"image {number}", [Image.new("RGB", (30, 20))] * 2)
    (path,) = sheet.write(tmp_path)
    with Image.open(path) as image:
        assert image.size == (8 + 2 * 200, 28 + 220 * translate.MAX_ROWS + 20)


def test_inspect_says_what_is_in_a_model(model: Path) -> None:
    lines = distillery("inspect", model).stdout.splitlines()
    assert lines[:3] == ["edits", *(f"  {name}: {prompt}" for name, prompt in EDITS.items())]
    assert {"name: rooms", "training_size: 64", "teacher: none"} <= set(lines)
    assert json.loads(distillery("inspect", model, "--json").stdout)["edits"] == EDITS


def test_the_providers_are_the_runtimes() -> None:
    from inference.runtime import PROVIDERS

    for verb in ("translate", "serve"):
        (option,) = (parameter for parameter in main.commands[verb].params if parameter.name == "provider")
        assert isinstance(option.type, click.Choice)
        assert list(option.type.choices) == list(PROVIDERS)


def test_serve_answers_until_it_is_stopped(model: Path) -> None:
    import httpx

    program = "import sys; from flows.cli import main; main(sys.argv[1:])"
    arguments = [sys.executable, "-c", program, "serve", f"rooms={model}", "--port", "0", "--provider", "cpu"]
    environment = os.environ | {"DISTILLERY_TOKEN": "s3cret"}
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        assert server.stderr.readline() == "rooms: red leather, blue fabric (on CPUExecutionProvider)\n"
        found = re.match(r"listening on (http://127\.0\.0\.1:\d+) ", server.stderr.readline())
        assert found
        headers = {"Authorization": "Bearer s3cret"}
        with httpx.Client(base_url=found[1], trust_env=False, timeout=60) as client:
            assert client.get("/v1/models").status_code == 401
            assert client.get("/v1/models", headers=headers).json()["models"][0]["name"] == "rooms"
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert server.stderr.read().endswith("stopped\n")


def test_serve_refuses_in_one_line(model: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ([tmp_path / "absent.onnx", "--port", "0"], "no model file at"),
        ([model, model, "--port", "0"], "two of the models are called rooms"),
        ([model, "--port", "0", "--token", ""], "the token is empty"),
        ([model, "--port", "0", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1 port 0"),
    ):
        result = distillery("serve", *arguments)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        assert message in result.stderr
    absent = "import sys; sys.modules.update(dict.fromkeys(['fastapi', 'uvicorn']));"
    ran = python(f"{absent} from flows.cli import main; main(['serve', {str(model)!r}])")
    assert ran.returncode == 2
    assert 'pip install "dds-distillery[serve]"' in ran.stderr
