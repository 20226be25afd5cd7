"""The examples, run as a reader runs them, against the runtime's output."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from tiny_model import METADATA, OFFSETS, noise, properties, write_model

from inference.runtime import Translator
from synth.images.reader import SourceImage

EXAMPLES = Path(__file__).parents[2] / "examples"
NODE = EXAMPLES / "node_onnxruntime"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties())


def plainly_enlarged(model: Path, image: np.ndarray, edit: str, strength: float) -> np.ndarray:
    """What the short examples make: the change enlarged by a cubic that does not look at the image."""
    translator = Translator.load(model, num_threads=1)
    small = SourceImage(image).reduced(*translator._network_size(*image.shape[:2]))
    number = np.array([list(translator.edits).index(edit)])
    (change,) = translator._difference(small[None], number, np.array([strength], np.float32)) * np.float32(127.5)
    size = image.shape[1::-1]
    planes = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC)) for plane in change]
    return np.rint(image + np.dstack(planes)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (90, 140), (400, 30)])
def test_python_with_onnxruntime_alone(model: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    source, target = tmp_path / "room.png", tmp_path / "edited.png"
    image = noise(*size)
    Image.fromarray(image).save(source)
    blocked = ["torch", "synth", "distill", "inference", "flows", "onnx", "click", "pydantic", "tqdm"]
    program = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({blocked}));"  # importing one of them fails
        "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = [str(EXAMPLES / "python_onnxruntime.py"), str(model), str(source), "red leather", str(target), "0.7"]
    subprocess.run([sys.executable, "-I", "-c", program, *arguments], check=True, capture_output=True)
    assert np.array_equal(Image.open(target), plainly_enlarged(model, image, "red leather", 0.7))
    if size == (64, 64):  # the network's own
        assert np.array_equal(Image.open(target), Translator.load(model, num_threads=1)(image, "red leather", 0.7))


@pytest.mark.slow
def test_a_clean_environment_gets_the_same_pixels(model: Path, tmp_path: Path) -> None:
    """Three packages from the index, and three files of the project. Run it with `python -m pytest -m slow`."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    wanted = [f"{name}=={version(name)}" for name in ("numpy", "Pillow", "onnxruntime")]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True, capture_output=True)
    for file in ("inference/runtime.py", "synth/images/reader.py", "synth/images/enlargement.py"):
        shutil.copy(EXAMPLES.parent / file, tmp_path)
    source, target = tmp_path / "room.png", tmp_path / "edited.png"
    Image.fromarray(noise(90, 140)).save(source)
    program = (
        "import sys; from runtime import Translator; _, model, source, target = sys.argv;"
        "Translator.load(model, num_threads=1)(source, 'red leather', 0.7).save(target)"
    )
    subprocess.run([python, "-c", program, model, source, target], check=True, cwd=tmp_path)
    expected = Translator.load(model, num_threads=1)(source, "red leather", 0.7)
    assert np.array_equal(Image.open(target), expected)


class TinyNetwork(torch.nn.Module):
    """The model of `tiny_model`, in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.from_numpy(OFFSETS))

    def forward(self, image: torch.Tensor, edit: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        change = (self.offsets[edit] * strength[:, None])[:, :, None, None]  # (N, 3, 1, 1)
        left, right = image.chunk(2, dim=3)
        return torch.cat([left + change, right], dim=3).clamp(-1, 1)


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.torchscript"
    example = torch.zeros(2, 3, 24, 40), torch.tensor([0, 1]), torch.ones(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, which cannot be fixed here
        traced = torch.jit.trace(TinyNetwork(), example)
        torch.jit.save(traced, path, _extra_files={"distillery.json": json.dumps(METADATA)})
    return path


@pytest.mark.parametrize(("size", "bound"), [((64, 64), 1), ((90, 140), 8), ((400, 30), 8)])
def test_torchscript_with_torch_alone(
    model: Path, torchscript: Path, tmp_path: Path, size: tuple[int, int], bound: int
) -> None:
    """Elsewhere than at the network's own size another cubic scales the change."""
    source, target = tmp_path / "room.ppm", tmp_path / "edited.ppm"
    image = noise(*size)
    Image.fromarray(image).save(source)
    blocked = ["numpy", "PIL", "onnxruntime", "synth", "distill", "inference", "flows"]
    program = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({blocked}));"
        "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = [str(EXAMPLES / "python_torchscript.py"), str(torchscript), str(source), "red leather", str(target)]
    subprocess.run([sys.executable, "-I", "-c", program, *arguments, "0.7"], check=True, capture_output=True)
    expected = plainly_enlarged(model, image, "red leather", 0.7).astype(int)
    assert np.abs(np.asarray(Image.open(target)) - expected).max() <= bound


needs_onnxruntime_node = pytest.mark.skipif(
    not shutil.which("node") or not (NODE / "node_modules").exists(),
    reason=f"needs Node, and npm install --ignore-scripts in {NODE.name} first",
)


@needs_onnxruntime_node
@pytest.mark.parametrize("location", ["../secret", "link", "weights"])
def test_node_reads_weights_in_the_folder_alone(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (tmp_path / "secret", folder / "weights"):
        path.write_bytes(OFFSETS.tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    model = onnx.load(write_model(folder / "model.onnx", properties()))
    (tensor,) = (each for each in model.graph.initializer if each.name == "offsets")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(OFFSETS.nbytes)}.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    Image.fromarray(noise(64, 64)).save(folder / "room.ppm")

    command = ["node", str(NODE / "translate.mjs"), "model.onnx", "room.ppm", "red leather", "edited.ppm"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (folder / "edited.ppm").exists() == (result.returncode == 0) == (location == "weights")
    if result.returncode:
        assert result.returncode == 2 and result.stderr.count("\n") == 1
        assert result.stderr.startswith("error: model.onnx is not a model that onnxruntime can load: ")


def test_node_enlarges_as_the_page_does() -> None:
    page = EXAMPLES.parent / "inference" / "server" / "web" / "enlargement.js"
    assert (NODE / "enlargement.mjs").read_bytes() == page.read_bytes()


@needs_onnxruntime_node
@pytest.mark.parametrize(("size", "bound"), [((64, 64), 1), ((90, 140), 8), ((400, 30), 8)])
def test_node(model: Path, tmp_path: Path, size: tuple[int, int], bound: int) -> None:
    """The same pixels at the network's own size; elsewhere another filter makes the small image."""
    source, target = tmp_path / "room.ppm", tmp_path / "edited.ppm"
    image = noise(*size)
    Image.fromarray(image).save(source)
    arguments = [str(NODE / "translate.mjs"), str(model), str(source), "blue fabric", str(target), "0.7"]
    subprocess.run(["node", *arguments], check=True, capture_output=True)
    expected = Translator.load(model, num_threads=1)(image, "blue fabric", 0.7).astype(int)
    assert np.abs(np.asarray(Image.open(target)) - expected).max() <= bound


@pytest.mark.parametrize("size", [(64, 64), (90, 140), (400, 30)])
def test_python_with_openvino(model: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed: pip install --no-deps openvino")
    source, target = tmp_path / "room.png", tmp_path / "edited.png"
    image = noise(*size)
    Image.fromarray(image).save(source)
    program = [sys.executable, EXAMPLES / "python_openvino.py", model, source, "red leather", target, "0.7"]
    subprocess.run(program, check=True, capture_output=True)
    expected = plainly_enlarged(model, image, "red leather", 0.7).astype(int)
    assert np.abs(np.asarray(Image.open(target)) - expected).max() <= 1


@pytest.mark.slow
def test_openvino_in_a_clean_environment(model: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "openvino"], check=True, capture_output=True)
    subprocess.run([*pip, *(f"{name}=={version(name)}" for name in ("numpy", "Pillow"))], check=True)
    source, target = tmp_path / "room.png", tmp_path / "edited.png"
    image = noise(90, 140)
    Image.fromarray(image).save(source)
    program = [python, EXAMPLES / "python_openvino.py", model, source, "red leather", target]
    subprocess.run(program, check=True, capture_output=True)
    expected = plainly_enlarged(model, image, "red leather", 1.0).astype(int)
    assert np.abs(np.asarray(Image.open(target)) - expected).max() <= 1


def test_the_comfyui_node_keeps_comfyuis_contract(tmp_path: Path) -> None:
    """Four files copied as the docs say, in a process where nothing of the project can be imported."""
    root = EXAMPLES.parent
    node, models = tmp_path / "custom_nodes" / "dds_distillery", tmp_path / "models" / "dds_distillery"
    shutil.copytree(EXAMPLES / "comfyui", node, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("inference/runtime.py", "synth/images/reader.py", "synth/images/enlargement.py"):
        shutil.copy(root / file, node)
    models.mkdir(parents=True)
    model = write_model(models / "sofas.onnx", properties())
    (models / "broken.onnx").write_bytes(b"no model")
    (models / "notes.txt").write_text("no model either")
    images = np.random.default_rng(0).random((3, 70, 90, 3), np.float32)
    np.save(tmp_path / "images.npy", images)
    support = Path(__file__).parents[1] / "support"
    environment = {**os.environ, "COMFYUI_OF_THE_TEST": str(tmp_path), "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    program = [sys.executable, support / "comfyui_program.py", node, tmp_path / "images.npy", tmp_path / "out.npz"]
    ran = subprocess.run(program, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    warned, widgets, answers = ran.stdout.splitlines()
    assert warned.startswith("dds_distillery: ") and "broken.onnx" in warned
    assert json.loads(widgets) == {
        "image": "IMAGE",
        "model": ["broken.onnx", "sofas.onnx"],
        "edit": ["red leather", "blue fabric"],
        "strength": "FLOAT",
        "mask": "MASK",
    }
    assert json.loads(answers) == [True, "sofas.onnx has no edit 'green': it has red leather, blue fabric"]
    pixels = np.rint(images * 255).astype(np.uint8)
    change = Translator.load(model, num_threads=1)(pixels, "blue fabric", 0.7).astype(np.float32) - pixels
    edited = np.load(tmp_path / "out.npz")["edited"]
    np.testing.assert_allclose(edited, np.clip(images + change / 255, 0, 1), atol=1e-6)
    assert np.array_equal(edited[:, :, 60:], images[:, :, 60:]) and (edited != images).any()
