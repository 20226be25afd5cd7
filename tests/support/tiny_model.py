"""A model file that keeps the contract and needs no torch: a few nodes, whose output the tests can compute."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EDITS = {"red leather": "a red leather sofa", "blue fabric": "a blue fabric sofa"}
OFFSETS = np.array([[0.4, -0.2, -0.2], [-0.2, -0.2, 0.4]], np.float32)  # what each edit adds, in [-1, 1] pixels
METADATA = {"schema_version": 1, "edits": EDITS, "training_size": 64, "size_multiple": 8, "teacher": "none"}


def write_model(path: Path, properties: dict[str, str]) -> Path:
    """Write a model file that adds its edit's offset to the left half of an image."""
    nodes = [
        helper.make_node("Gather", ["offsets", "edit"], ["offset"]),  # (N, 3, 1, 1)
        helper.make_node("Reshape", ["strength", "column"], ["strength4"]),  # (N, 1, 1, 1)
        helper.make_node("Mul", ["offset", "strength4"], ["change"]),
        helper.make_node("Split", ["image"], ["left", "right"], axis=3, num_outputs=2),
        helper.make_node("Add", ["left", "change"], ["edited"]),
        helper.make_node("Concat", ["edited", "right"], ["whole"], axis=3),
        helper.make_node("Clip", ["whole", "low", "high"], ["translated"]),
    ]
    constants = {
        "offsets": OFFSETS.reshape(2, 3, 1, 1),
        "column": np.array([-1, 1, 1, 1], np.int64),
        "low": np.float32(-1),
        "high": np.float32(1),
    }
    image_shape = ["N", 3, "H", "W"]
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, image_shape),
            helper.make_tensor_value_info("edit", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("strength", TensorProto.FLOAT, ["N"]),
        ],
        [helper.make_tensor_value_info("translated", TensorProto.FLOAT, image_shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    helper.set_model_props(model, properties)
    onnx.save(model, str(path))
    return path


def properties(**overrides: object) -> dict[str, str]:
    """The metadata as a model file holds it, with overrides."""
    return {f"distillery.{key}": json.dumps(value) for key, value in (METADATA | overrides).items()}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise, uint8 (H, W, 3), away from the ends of the range so that no edit clips."""
    return np.random.default_rng(seed).integers(60, 190, (height, width, 3), dtype=np.uint8)
