"""The command: quick help, and one line for what a person can mend."""

import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

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
        *("distill", "evaluate", "export", "import-photos", "inspect", "run", "synthesize", "translate"),
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
    assert distillery(*arguments, "--size", "64").stdout == f"data set  {tmp_path / 'set'}\n"
    assert (tmp_path / "set" / "preview.html").exists()
    assert "multiple of 8" in distillery(*arguments, "--size", "50").stderr


def test_a_training_needs_a_painted_set(tmp_path: Path) -> None:
    result = distillery("distill", "demo", "--data", tmp_path / "none", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr == f"error: no data set in {tmp_path / 'none'}: run `distillery synthesize` first\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["export", "evaluate"])
def test_verbs_of_a_run_need_a_run(verb: str, tmp_path: Path) -> None:
    result = distillery(verb, tmp_path)
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
