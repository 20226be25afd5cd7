"""`distillery export`: which files it writes, and when it leaves them."""

import shutil
from pathlib import Path

import pytest
from small_runs import command

from flows.config.loading import load_recipe
from flows.config.toml import to_toml
from inference.export.formats import read_metadata


def test_further_formats_leave_the_main_file_alone(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    main = run / "model.onnx"
    before = main.stat().st_mtime_ns
    arguments = ["export", run, "--format", "torchscript"]
    first = command(*arguments)
    assert first.exit_code == 0, first.output
    traced = run / "model.torchscript"
    assert f"{traced} differs from PyTorch by " in first.stdout
    assert first.stdout.endswith(f"model  {main}\nmodel  {traced}\n")
    assert main.stat().st_mtime_ns == before
    ours, theirs = read_metadata(traced), read_metadata(main)
    assert ours["edits"] == theirs["edits"] and ours["data_fingerprint"] == theirs["data_fingerprint"]
    assert ours["metrics"] == {}, "the metrics of the main file were not measured on this one"

    written = traced.stat().st_mtime_ns
    assert f"{traced} is up to date" in command(*arguments).stdout
    assert traced.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--format", "onnx,coreml"],
            "export.formats.1: input should be 'onnx', 'torchscript' or 'pt2'",
        ),
        (["--precision", "float8"], "export.precisions.0: input should be 'float32', 'float16' or 'int8'"),
        (["--format", "pt2", "--precision", "int8"], "int8 is for the format onnx alone"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(options: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(to_toml(load_recipe("demo")))
    result = command("export", tmp_path, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
