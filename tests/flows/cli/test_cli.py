"""The command as a whole: quick help, and one line for what the user can fix."""

import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image
from small_runs import command

from flows import command_line
from flows.cli import main
from flows.doctor import packages
from synth.errors import printable

HEAVY = "torch diffusers transformers prefect onnx onnxruntime pydantic numpy pyarrow"


def python(program: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    loaded = python(f"import sys, flows.cli; print(*sorted(set('{HEAVY}'.split()) & set(sys.modules)))")
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip() == ""


def test_every_verb_has_help_with_an_example() -> None:
    assert sorted(main.commands) == [
        *("compress", "distill", "doctor", "edit", "evaluate", "export", "import-photos", "init", "inspect", "page"),
        *("preview", "publish", "run", "serve", "study", "synthesize", "translate"),
    ]
    overview = command("--help").output
    verbs = {(name,): verb for name, verb in main.commands.items()}
    for group in (verb for verb in main.commands.values() if isinstance(verb, click.Group)):
        verbs |= {(group.name or "", name): verb for name, verb in group.commands.items()}
    for words, verb in verbs.items():
        assert words[0] in overview
        assert f"\n  distillery {' '.join(words)} " in command(*words, "--help").output
        for parameter in verb.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (
                f"{words} --{parameter.name} has no help"
            )


def test_the_base_install_says_what_is_missing(tmp_path: Path) -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(['torch', 'prefect', 'diffusers', 'onnx', 'pyarrow']));"
    ran = python(f"{absent} from flows.cli import main; main(['run', 'demo', '--out', {str(tmp_path / 'run')!r}])")
    assert ran.returncode == 2
    assert 'pip install "dds-distillery[pipeline]"' in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert python(f"{absent} import inference.runtime, flows.cli").returncode == 0


def test_every_package_of_the_base_and_the_chain_is_named() -> None:
    """A missing one is a line that names its extra, not a traceback."""
    extras = packages.requirements_of_extras()
    modules = {
        extra: {packages.module_name(each.name) for each in extras[extra]} for extra in ("base", "pipeline", "serve")
    }
    modules["base"] = {"PIL" if name == "pillow" else name for name in modules["base"]} - {
        "click"
    }  # without it, no line
    assert modules["base"] <= command_line._BASE
    assert modules["pipeline"] | modules["serve"] <= command_line._PIPELINE | command_line._SERVE


def test_what_needs_no_onnx_runtime_works_without_it() -> None:
    absent = "import sys; sys.modules['onnxruntime'] = None;"
    needed = "flows.stages.synthesize, flows.stages.distill, flows.stages.compress, flows.planning.preview"
    ran = python(f"{absent} import {needed}, flows.evaluation.zero_shot")
    assert ran.returncode == 0, ran.stderr


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
    result = command(*arguments, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_photographs_become_a_set(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for level in (40, 200):
        Image.fromarray(np.full((70, 90, 3), level, np.uint8)).save(tmp_path / "photos" / f"{level}.png")
    arguments = ["import-photos", tmp_path / "photos", "--out", tmp_path / "set"]
    assert command(*arguments, "--size", "64").stdout.splitlines() == [
        f"dataset  {tmp_path / 'set'}",
        "images   2, 2 new",
        "captions 0 of 2 images have one",
    ]
    assert (tmp_path / "set" / "preview.html").exists()
    assert "multiple of 8" in command(*arguments, "--size", "50").stderr


def test_a_training_needs_a_painted_set(tmp_path: Path) -> None:
    result = command("distill", "demo", "--data", tmp_path / "none", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr == f"error: no dataset in {tmp_path / 'none'}: run `distillery synthesize` first\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["export", "evaluate student"])
def test_verbs_of_a_run_need_a_run(verb: str, tmp_path: Path) -> None:
    result = command(*verb.split(), tmp_path)
    assert result.exit_code == 2
    assert (
        result.stderr
        == f"error: {tmp_path} is not a run folder: `distillery run RECIPE --out {tmp_path}` makes one\n"
    )


def test_translate_and_inspect_refuse_other_files(tmp_path: Path) -> None:
    image = tmp_path / "room.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    for arguments in (["translate", tmp_path / "m.onnx", image, "--edit", "red"], ["inspect", tmp_path / "m.onnx"]):
        result = command(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: no model file at {tmp_path / 'm.onnx'}")
    assert command("inspect", image).stderr.startswith(f"error: {image} is not an ONNX model")


def test_usage_errors_exit_with_2(tmp_path: Path) -> None:
    assert command("run", "demo").exit_code == 2
    assert command("run", "demo", "--num-images", "0", "--out", tmp_path).exit_code == 2
    assert command("no-such-verb").exit_code == 2


def test_the_providers_are_the_runtimes() -> None:
    from inference.runtime import PROVIDERS

    for verb in ("translate", "serve"):
        (option,) = (parameter for parameter in main.commands[verb].params if parameter.name == "provider")
        assert isinstance(option.type, click.Choice)
        assert list(option.type.choices) == list(PROVIDERS)


def test_a_wrong_value_names_its_option(tmp_path: Path) -> None:
    """The settings' own bounds, which click does not know."""
    edited = command("edit", tmp_path, "--prompt", "a", "--learning-rate", "-1")
    studied = command("study", "steps", "--learning-rate", "-1", "--out", tmp_path / "study")
    imported = command("import-photos", tmp_path, "--size", "50", "--out", tmp_path / "set")
    for result, option in ((edited, "--learning-rate"), (studied, "--learning-rate"), (imported, "--size")):
        assert result.exit_code == 2
        assert f"Error: {option}: Input should be" in result.stderr


def test_an_error_cannot_drive_the_terminal() -> None:
    """What a message repeats may come from somebody else's file."""
    result = command("run", "sofas\x1b[2J\x07", "--out", "x")
    assert result.exit_code == 2
    assert "\x1b" not in result.stderr
    assert "\x07" not in result.stderr
    assert result.stderr.startswith("error: there is no recipe")


def test_printable_escapes_what_a_terminal_obeys() -> None:
    assert printable("a sofa, 沙发 é") == "a sofa, 沙发 é"
    assert printable("\x1b]0;title\x07\r\n\x9b\u202e\udc80") == r"\x1b]0;title\x07\r\n\x9b\u202e\udc80"
