"""An ONNX file whose weights lie outside its folder is refused: it would read any file of this machine.

ONNX Runtime itself refuses it, wherever the tensor stands in the model, from the version that pyproject.toml names.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from tiny_model import properties, write_model

from inference.export.formats import open_file, read_metadata, record_metrics
from inference.runtime import ModelFileError, Translator
from synth.errors import ExportError

_NUM_VALUES = 64
_OPSET = helper.make_opsetid("", 20)
_ADD = helper.make_node("Add", ["image", "weights"], ["translated"])


def _tensor(location: str) -> TensorProto:
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[_NUM_VALUES])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 0, "length": 4 * _NUM_VALUES}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _constant(location: str) -> NodeProto:
    return helper.make_node("Constant", [], ["weights"], value=_tensor(location))


def _graph(nodes: list[NodeProto], initializers: list[TensorProto] | None = None, inputs: bool = True) -> GraphProto:
    image, translated = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [_NUM_VALUES]) for name in ("image", "translated")
    )
    return helper.make_graph(nodes, "hostile", [image] if inputs else [], [translated], initializers)


def _model(graph: GraphProto) -> ModelProto:
    return helper.make_model(graph, opset_imports=[_OPSET])


def _as_initializer(location: str) -> ModelProto:
    return _model(_graph([_ADD], [_tensor(location)]))


def _as_constant(location: str) -> ModelProto:
    return _model(_graph([_constant(location), _ADD]))


def _in_a_branch(location: str) -> ModelProto:
    branch = _graph([_ADD], [_tensor(location)], inputs=False)
    choice = helper.make_node("If", ["yes"], ["translated"], then_branch=branch, else_branch=branch)
    return _model(_graph([choice], [numpy_helper.from_array(np.array(True), "yes")]))


def _in_a_function(location: str) -> ModelProto:
    function = helper.make_function("own", "Change", ["image"], ["translated"], [_constant(location), _ADD], [_OPSET])
    call = helper.make_node("Change", ["image"], ["translated"], domain="own")
    return helper.make_model(
        _graph([call]), functions=[function], opset_imports=[_OPSET, helper.make_opsetid("own", 1)]
    )


def _as_sparse_initializer(location: str) -> ModelProto:
    places = numpy_helper.from_array(np.arange(_NUM_VALUES), "places")
    graph = _graph([_ADD])
    graph.sparse_initializer.append(helper.make_sparse_tensor(_tensor(location), places, [_NUM_VALUES]))
    return _model(graph)


PLACES = [_as_initializer, _as_constant, _in_a_branch, _in_a_function, _as_sparse_initializer]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, beside a file that is not the model's."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (tmp_path / "secret", folder / "weights"):
        path.write_bytes(np.ones(_NUM_VALUES, np.float32).tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    return folder


def _write(folder: Path, model: ModelProto) -> Path:
    model.ir_version = 10
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", ["dots", "absolute", "link", "linked folder", "dots past a folder"])
def test_weights_outside_the_folder_are_refused(folder: Path, place: Callable[[str], ModelProto], way: str) -> None:
    location = {
        "dots": "../secret",
        "absolute": str(folder.parent / "secret"),
        "link": "link",
        "linked folder": "linked/secret",
        "dots past a folder": "nowhere/../../secret",
    }[way]
    path = _write(folder, place(location))
    with pytest.raises(
        ModelFileError, match=r"onnxruntime can load: .*([Ee]xternal|directory|symbolic link)"
    ) as refused:
        Translator.load(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(ExportError, match=r"model\.onnx cannot be opened \(.*\): export it again$"):
        open_file(path, "onnx")


@pytest.mark.parametrize("place", PLACES)
def test_weights_inside_the_folder_are_read(folder: Path, place: Callable[[str], ModelProto]) -> None:
    """So nothing but the location is why the others are refused."""
    run = open_file(_write(folder, place("weights")), "onnx")
    assert np.array_equal(run({"image": np.zeros(_NUM_VALUES, np.float32)}), np.ones(_NUM_VALUES))


def test_the_hubs_cache_may_link_its_own_blobs(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "b").write_bytes(np.ones(_NUM_VALUES, np.float32).tobytes())
    _write(blobs, _as_initializer("model.onnx.data")).rename(blobs / "a")
    for name, blob in {"model.onnx": "a", "model.onnx.data": "b"}.items():
        (snapshot / name).symlink_to(os.path.relpath(blobs / blob, snapshot))
    run = open_file(snapshot / "model.onnx", "onnx")
    assert np.array_equal(run({"image": np.zeros(_NUM_VALUES, np.float32)}), np.ones(_NUM_VALUES))


def test_recording_metrics_writes_the_model_file_alone(folder: Path) -> None:
    """A tensor that has both its bytes and a location would be written there by `onnx.save`."""
    path = write_model(folder / "model.onnx", properties())
    model = onnx.load(path)
    tensor = model.graph.initializer.add()
    tensor.CopyFrom(_tensor("weights"))
    tensor.raw_data = b"overwritten"
    path.write_bytes(model.SerializeToString())
    before = (folder / "weights").read_bytes()
    record_metrics(path, {"psnr_db": 30.0})
    assert read_metadata(path)["metrics"] == {"psnr_db": 30.0}
    assert (folder / "weights").read_bytes() == before
    assert len(list(folder.iterdir())) == 4
