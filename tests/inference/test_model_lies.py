"""Model files that say what makes no sense: one line when they are loaded, in Python, page and Node alike."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_model import properties, write_model

from flows.cli.use.inspect import inspect
from inference.runtime import ModelFileError, Translator
from inference.server.page import WEB

EXAMPLES = Path(__file__).parents[2] / "examples"
DEEP = "[" * 100_000 + "]" * 100_000
LIES: dict[str, dict[str, str]] = {
    "size true": properties(training_size=True),
    "size 0": properties(training_size=0),
    "size 8193": properties(size_multiple=8193),
    "size of text": properties(size_multiple="8"),
    "size with a fraction": properties(training_size=64.5),
    "size of thousands of digits": properties() | {"distillery.training_size": "9" * 10_000},
    "size infinite": properties() | {"distillery.training_size": "Infinity"},
    "version true": properties(schema_version=True),
    "version of text": properties(schema_version="1"),
    "edits a list": properties(edits=["a"]),
    "edits null": properties(edits=None),
    "edits none": properties(edits={}),
    "edits too many": properties(edits={f"e{i}": "x" for i in range(1001)}),
    "prompt a number": properties(edits={"a": 1}),
    "prompt a table": properties(edits={"a": {"b": "c"}}),
    "prompt endless": properties(edits={"a": "x" * 10_001}),
    "name empty": properties(edits={"": "x"}),
    "name endless": properties(edits={"n" * 201: "x"}),
    "edits nested without end": properties() | {"distillery.edits": DEEP},
    "not JSON": properties() | {"distillery.edits": "{"},
}
MORE: dict[str, dict[str, str]] = {  # of what the Node example does not read
    "another value nested without end": properties() | {"distillery.teacher": DEEP},
    "another value nested 40 deep": properties() | {"distillery.teacher": "[" * 40 + "]" * 40},
    "a value of 2 MB": properties(teacher="x" * 2**21),
    "too many properties": properties(**{f"p{i}": 1 for i in range(101)}),
}
node = pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")


@pytest.mark.parametrize("name", [*LIES, *MORE])
def test_python_refuses_it(tmp_path: Path, name: str) -> None:
    path = write_model(tmp_path / "model.onnx", (LIES | MORE)[name])
    with pytest.raises(ModelFileError) as caught:
        Translator.load(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 600
    assert "export" in message


@node
def test_the_page_refuses_all_of_them_and_takes_the_good_one(tmp_path: Path) -> None:
    names = [*LIES, *MORE]
    for number, name in enumerate(names):
        write_model(tmp_path / f"{number}.onnx", (LIES | MORE)[name])
    write_model(tmp_path / "good.onnx", properties())
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "good.onnx").read_bytes()[:-3] + b"\xff\xff\xff")
    files = [*(f"{number}.onnx" for number in range(len(names))), "cut.onnx", "good.onnx"]
    program = f"""
        import {{ readFileSync }} from "node:fs";
        import {{ readMetadata }} from {json.dumps((WEB / "translator.js").as_uri())};
        const said = {json.dumps(files)}.map((file) => {{
          try {{ return readMetadata(new Uint8Array(readFileSync(file))) && "taken"; }}
          catch (error) {{ return `${{error.constructor.name}}: ${{error.message}}`; }}
        }});
        console.log(JSON.stringify(said));
    """
    (tmp_path / "read.mjs").write_text(program)
    output = subprocess.run(["node", "read.mjs"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    said = dict(zip([*names, "cut", "good"], json.loads(output), strict=True))
    assert said.pop("good") == "taken"
    for name, message in said.items():
        assert message.startswith("Error: ") and "\n" not in message and len(message) < 500, (name, message)


@node
@pytest.mark.parametrize("name", LIES)
def test_the_node_example_refuses_it(tmp_path: Path, name: str) -> None:
    for script in ("translate.mjs", "enlargement.mjs"):
        shutil.copy(EXAMPLES / "node_onnxruntime" / script, tmp_path)
    package = tmp_path / "node_modules" / "onnxruntime-node"  # metadata is read before anything of it is used
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"name": "onnxruntime-node", "type": "module", "main": "index.js"}')
    (package / "index.js").write_text("export default {};\n")
    write_model(tmp_path / "model.onnx", LIES[name])
    (tmp_path / "room.ppm").write_bytes(b"P6 1 1 255\n123")
    command = ["node", "translate.mjs", "model.onnx", "room.ppm", "red leather", "edited.ppm"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: model.onnx has broken metadata")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["size true", "size 8193", "edits a list"])
def test_the_python_example_refuses_it(tmp_path: Path, name: str) -> None:
    write_model(tmp_path / "model.onnx", LIES[name])
    program = EXAMPLES / "python_onnxruntime.py"
    command = [sys.executable, program, "model.onnx", "room.png", "red leather", "edited.png"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr == "model.onnx has broken metadata: export it again\n"


def test_inspect_shows_control_characters_escaped(tmp_path: Path) -> None:
    evil = "\x1b[2Ja\u202eb\nx\x07"
    metadata = properties(edits={evil: evil}, teacher=evil, metrics={"means": [{"method": "student", "right": "x"}]})
    path = write_model(tmp_path / "model.onnx", metadata | {f"distillery.{evil}": json.dumps(evil)})
    for arguments in ([str(path)], [str(path), "--json"]):
        result = CliRunner().invoke(inspect, arguments)
        assert result.exit_code == 0, result.output
        assert all(letter.isprintable() or letter == "\n" for letter in result.output)
        assert "\\x1b[2Ja" in result.output or "\\u001b[2Ja" in result.output


def test_an_eps_named_png_starts_no_program(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    translator = Translator.load(write_model(tmp_path / "model.onnx", properties()))
    with pytest.raises(ValueError, match="it is no image"):
        translator(path, "red leather")
