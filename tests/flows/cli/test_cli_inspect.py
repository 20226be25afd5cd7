"""`distillery inspect`: a model file's metadata, as text and as JSON."""

import json
from pathlib import Path

from small_runs import command
from tiny_model import EDITS, properties, write_model


def test_inspect_says_what_is_in_a_model(model: Path) -> None:
    lines = command("inspect", model).stdout.splitlines()
    assert lines[:3] == ["edits", *(f"  {name}: {prompt}" for name, prompt in EDITS.items())]
    assert {"name: rooms", "training_size: 64", "teacher: none"} <= set(lines)
    assert json.loads(command("inspect", model, "--json").stdout)["edits"] == EDITS


def test_metadata_cannot_drive_the_terminal(tmp_path: Path) -> None:
    """A model file may come from anybody: its texts are escaped, in both forms."""
    hostile = {"red\x1b[2J": "a \x07 sofa\nname: other"}
    model = write_model(
        tmp_path / "model.onnx", properties(edits=hostile | {"blue": "b"}, name="a\x1b]0;b", metrics={"means": 3})
    )
    text = command("inspect", model).stdout
    assert "\x1b" not in text
    assert "\x07" not in text
    assert r"  red\x1b[2J: a \x07 sofa\nname: other" in text.splitlines()
    assert "metrics: not in a form that this version reads; --json prints them" in text.splitlines()
    document = command("inspect", model, "--json").stdout
    assert document.isascii()
    assert "\x1b" not in document
    assert json.loads(document)["edits"] == hostile | {"blue": "b"}
