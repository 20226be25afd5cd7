"""A float32 ONNX model in fewer bits: float16 by ONNX Runtime's converter, int8 by its static quantization.

Both begin with the exported float32 model, so that PyTorch traces the student once. The new file has the same inputs
and output, in float32.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from inference.runtime import FloatArray, UInt8Array
from synth.errors import ExportError

_CALIBRATION_BATCH = 4
_MAX_LAST_STEPS = 12  # a sum, a clip, the choice at strength 0; with more, the search went past the subtraction

# What stays in float32, in addition to the converter's own list (Resize is on it): sums over a whole image overflow
# float16, and the decoder's output turns black.
_FLOAT32_OPS = ["GroupNormalization", "InstanceNormalization", "LayerNormalization", "ReduceMean"]


def to_float16(model: onnx.ModelProto, target: Path, external_data: bool) -> None:
    """Convert an ONNX model to float16.

    The last steps, image + change, stay in float32: the image's own bits must come through.

    Args:
        model: in float32; it is changed.
        target: the file to write.
        external_data: whether the weights go into a file beside `target`.

    Raises:
        ExportError: if the graph does not end as the exporter writes it.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    weights = {tensor.name for tensor in model.graph.initializer}
    # The exporter lists the weights' types, too; the converter would take them for values that it has converted.
    value_info = [entry for entry in model.graph.value_info if entry.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(value_info)
    last_steps = _last_steps(model)
    model = convert_float_to_float16(
        model,
        keep_io_types=True,
        disable_shape_infer=True,  # the exporter has written all shapes, and the inference fails beyond 2 GB
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_FLOAT32_OPS],
        node_block_list=last_steps,
    )
    _connect_directly(model, last_steps)
    _tidy(model)
    _save(model, target, external_data)


def to_int8(source: Path, target: Path, images: UInt8Array, num_edits: int, external_data: bool) -> None:
    """Quantize the weights and inputs of an ONNX file's convolutions and matrix products.

    Args:
        source: the float32 file.
        target: the file to write.
        images: uint8 (N, H, W, 3), like the student's inputs. The ranges of all values are taken from them, over all
            edits and the usual strengths.
        num_edits: how many edits the student knows.
        external_data: whether the weights go into a file beside `target`.

    Raises:
        ExportError: if the graph does not end as the exporter writes it.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    rough = target.with_name(f"rough-{target.name}")
    with _quiet():
        quantize_static(
            source,
            rough,
            _Feeds(images, num_edits),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            # Weights of seven bits: with eight, sums saturate on processors without VNNI, and no check here sees it.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=external_data,
            extra_options={"MatMulConstBOnly": True},  # attention's own products stay in float32
        )
    last_steps = _last_steps(onnx.load(str(source), load_external_data=False))
    model = onnx.load(str(rough))
    for file in target.parent.glob(f"{rough.name}*"):
        file.unlink()
    _connect_directly(model, last_steps)
    _tidy(model)
    _save(model, target, external_data)


class _Feeds:
    """The calibration's inputs, batch by batch: the quantizer's data reader."""

    def __init__(self, images: UInt8Array, num_edits: int):
        self._feeds = self._make(images, num_edits)

    def get_next(self) -> dict[str, npt.NDArray[np.generic]] | None:
        """Return the next batch, None at the end."""
        return next(self._feeds, None)

    @staticmethod
    def _make(images: UInt8Array, num_edits: int) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
        strengths: FloatArray = np.array([1.0, 0.5, 1.5], np.float32)
        for start in range(0, len(images), _CALIBRATION_BATCH):
            batch = images[start : start + _CALIBRATION_BATCH]
            turns = np.arange(start, start + len(batch))
            yield {
                "image": batch.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0,  # (N, 3, H, W)
                "edit": turns % num_edits,
                "strength": strengths[turns % 3],
            }


def _last_steps(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes between the output and the last subtraction, which computes the change of pixels."""
    makers = {output: node for node in model.graph.node for output in node.output}
    names: list[str] = []
    waiting = ["translated"]
    while waiting:  # backwards from the output, up to the subtraction, the weights and the graph's inputs
        node = makers.get(waiting.pop())
        if node is None or node.op_type == "Sub" or node.name in names:
            continue
        names.append(node.name)
        waiting += node.input
    if len(names) > _MAX_LAST_STEPS:
        raise ExportError("the graph does not end as the exporter writes it: the image's own bits would be lost")
    return names


def _connect_directly(model: onnx.ModelProto, names: list[str]) -> None:
    """Connect the nodes `names` with the graph's inputs and output, without the roundings inserted between them."""
    roundings = {"Cast", "QuantizeLinear", "DequantizeLinear"}
    makers = {output: node for node in model.graph.node for output in node.output}

    def origin(value: str) -> str:
        while value in makers and makers[value].op_type in roundings:
            value = makers[value].input[0]
        return value

    inputs = {entry.name for entry in model.graph.input}
    for node in model.graph.node:
        if node.name in names:
            node.input[:] = [origin(value) if origin(value) in inputs else value for value in node.input]
    # The output itself may be a rounding: its node goes, and its source takes the output's name.
    last = origin("translated")
    if last != "translated":
        model.graph.node.remove(makers["translated"])
        for node in model.graph.node:
            node.input[:] = ["translated" if value == last else value for value in node.input]
        makers[last].output[:] = ["translated"]


def _tidy(model: onnx.ModelProto) -> None:
    """Drop duplicate and unused casts, and sort the nodes: the converter appends its casts at the end."""
    from onnxruntime.transformers.onnx_model import OnnxModel

    # The first of several nodes with one name stays, and one of several types.
    nodes = {node.output[0]: node for node in reversed(model.graph.node)}
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes.values()))
    values = {entry.name: entry for entry in model.graph.value_info}
    del model.graph.value_info[:]
    model.graph.value_info.extend(values.values())
    graph = OnnxModel(model)
    graph.prune_graph()
    graph.topological_sort()


def _save(model: onnx.ModelProto, target: Path, external_data: bool) -> None:
    if external_data:
        onnx.save(model, str(target), save_as_external_data=True, location=f"{target.name}.data")
    else:
        onnx.save(model, str(target))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's advice to its caller, which it logs through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
