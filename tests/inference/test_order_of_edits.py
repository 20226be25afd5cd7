"""Edits whose names are digits keep their places in every client: JavaScript's objects would sort them first."""

import json
import shutil
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import noise, properties, write_model

from inference.runtime import EditError, Translator
from inference.server.page import WEB

NAMES = ['a"b\\', "2", "__proto__", "10", "зима", "1"]
NODE = pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")
STUB = """
export class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
export const InferenceSession = {
  create: async () => ({
    run: async ({ image, edit }) => {
      console.log(`edit number ${edit.data[0]}`);
      return { translated: image };
    },
  }),
};
"""  # says which edit it is asked for, and changes nothing


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    edits = {name: f'the "prompt" of {name}, {{}}' for name in NAMES}
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties(edits=edits))


def run_node(program: Path, *arguments: str | Path) -> list[str]:
    command = ["node", program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@NODE
def test_the_page_keeps_the_order_of_edits(model: Path, tmp_path: Path) -> None:
    (tmp_path / "ort.mjs").write_text(STUB)
    program = tmp_path / "page.mjs"
    program.write_text(f"""
        import {{ readFileSync }} from "node:fs";
        import * as ort from "./ort.mjs";
        import {{ Translator }} from {json.dumps((WEB / "translator.js").as_uri())};
        const translator = await Translator.load(ort, new Uint8Array(readFileSync(process.argv[2])));
        console.log(JSON.stringify([...translator.metadata.get("edits")]));
        for (const name of translator.edits)
          await translator.translate(new Uint8ClampedArray(4 * 64 * 64), 64, 64, name, 1);
    """)
    listed, *numbers = run_node(program, model)
    assert json.loads(listed) == [list(pair) for pair in Translator.load(model).edits.items()]
    assert [name for name, _ in json.loads(listed)] == NAMES
    assert numbers == [f"edit number {number}" for number in range(len(NAMES))]


@NODE
def test_the_node_example_keeps_the_order_of_edits(model: Path, tmp_path: Path) -> None:
    package = tmp_path / "node_modules" / "onnxruntime-node"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"name": "onnxruntime-node", "main": "index.mjs"}')
    (package / "index.mjs").write_text(f"{STUB}\nexport default {{ Tensor, InferenceSession }};")
    examples = Path(__file__).parents[2] / "examples" / "node_onnxruntime"
    shutil.copy(examples / "enlargement.mjs", tmp_path)
    program = shutil.copy(examples / "translate.mjs", tmp_path)
    source = tmp_path / "room.ppm"
    Image.fromarray(noise(64, 64)).save(source)
    for number, name in enumerate(NAMES):
        assert run_node(program, model, source, name, tmp_path / "edited.ppm") == [f"edit number {number}"]
    assert np.array_equal(Image.open(tmp_path / "edited.ppm"), noise(64, 64))


def test_a_name_in_pieces_is_the_same_name(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx", properties(edits={"зимний": "a", "x": "b"}))
    translator = Translator.load(path)
    image = noise(64, 64)
    edited = translator(image, unicodedata.normalize("NFD", "зимний"))
    assert np.array_equal(edited, translator(image, "зимний")) and not np.array_equal(edited, image)
    with pytest.raises(EditError):
        translator(image, "зимнии")
