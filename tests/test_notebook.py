"""The notebook runs from top to bottom in a fresh process, with smaller sizes than a reader's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
CELLS = json.loads((ROOT / "examples" / "first_edit.ipynb").read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
SMALLER = """
NUM_IMAGES, STEPS = 4, 2
NUM_EXAMPLES, GUIDANCE, ITERATIONS = 2, (3,), (1,)
OUT = "first-edit"
"""
LIGHTER = """
recipe = with_overrides(recipe, ["training.student=compact", "scenes.num_inference_steps=4"])
"""


def names(program: str) -> list[str]:
    return [name.strip() for line in program.strip().splitlines() for name in line.partition("=")[0].split(",")]


def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    assert names(CODE[0]) == names(SMALLER), "the first cell has the sizes"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    (number,) = (number for number, cell in enumerate(CODE) if "recipe = with_overrides(" in cell)
    program = "\n".join([SMALLER, *CODE[1 : number + 1], LIGHTER, *CODE[number + 1 :]])
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    out = tmp_path / "first-edit"
    assert {"preview.html", "run", "strengths.png"} <= {path.name for path in out.iterdir()}
    assert (out / "run" / "model.onnx").exists()
    assert "go" in ran.stdout and "the full run: 4 images, 2 steps" in ran.stdout
    with Image.open(out / "strengths.png") as strip:
        assert np.asarray(strip).shape == (128, 3 * 128, 3)


def test_it_is_kept_without_outputs() -> None:
    for cell in CELLS:
        assert cell["id"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
