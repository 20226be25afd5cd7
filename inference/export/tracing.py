"""Trace a module once, and write it as each kind of model file."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from inference.export import quantize
from inference.export.formats import EXTRA_FILE, set_properties
from inference.export.modules import FileModule
from inference.runtime import UInt8Array
from inference.settings import MAIN, Kind
from synth.errors import ExportError, first_line

MAX_INLINE_BYTES = 1536 * 2**20  # a protobuf file is limited to 2 GiB; PyTorch's exporter stays well below, too
TRACE_LATENTS = (17, 25)  # height and width: odd, and odd again when halved and rounded up; see `Tracer`
TRACE_PIXELS = (67, 99)  # of a pixel network, which takes any: both sides are padded, to different lengths


def name_of(kind: Kind) -> str:
    """What messages call a file of this kind."""
    return f"the {kind.precision} {kind.format} file"


class Tracer:
    """Writes a module's kinds of file, and traces it as seldom as possible.

    diffusers' U-Net decides in Python whether to pass sizes to its upsampling blocks: only where a side does not
    divide by 2^(levels - 1). The trace freezes that choice, so it must see such a size; the branch that it keeps is
    right for every size. The batch is 2 and H != W, because the tracer takes 1 and equal sides for constants.
    """

    def __init__(self, module: FileModule, example_size: tuple[int, ...], num_edits: int, opset: int):
        self._module = module
        self._opset = opset
        self._num_edits = num_edits
        self._example = {
            "image": torch.zeros(2, 3, *example_size),
            "edit": torch.tensor([0, num_edits - 1]),
            "strength": torch.tensor([1.0, 0.5]),
        }
        self._archives: dict[Kind, Any] = {}  # saved again with the metadata, after the check

    def write(self, kind: Kind, path: Path, calibration_images: UInt8Array, float32_file: Path | None = None) -> None:
        """Write one kind of file, without metadata.

        Args:
            kind: of the file.
            path: of the file; nothing else is in its folder.
            calibration_images: for int8.
            float32_file: the same network's ONNX file in float32, if it is there.

        Raises:
            ExportError: if the exporter fails.
        """
        try:
            with _quiet(), torch.no_grad():
                if kind.format == "onnx":
                    self._write_onnx(kind, path, calibration_images, float32_file)
                else:
                    self._archives[kind] = self._archive(kind)
                    self.describe(kind, path, {})
        except ExportError:
            raise
        except Exception as error:  # the exporters raise many kinds, all about the module that they were given
            raise ExportError(f"{name_of(kind)} cannot be made from the student: {first_line(error)}") from error

    def describe(self, kind: Kind, path: Path, properties: dict[str, Any]) -> None:
        """Put metadata into the file at `path`, which `write` has made."""
        extra = {EXTRA_FILE: json.dumps(properties)}
        if kind.format == "onnx":
            set_properties(path, properties)
        elif kind.format == "torchscript":
            torch.jit.save(self._archives[kind], str(path), _extra_files=extra)
        else:
            torch.export.save(self._archives[kind], path, extra_files=extra)

    def _write_onnx(self, kind: Kind, path: Path, calibration_images: UInt8Array, float32_file: Path | None) -> None:
        num_bytes = sum(tensor.nbytes for tensor in self._module.state_dict().values())
        if kind == MAIN:  # the export itself; the other precisions are made from it
            self._onnx.save(str(path), external_data=num_bytes > MAX_INLINE_BYTES)
        elif kind.precision == "float16":
            quantize.to_float16(self._onnx.model_proto, path, external_data=num_bytes / 2 > MAX_INLINE_BYTES)
        else:
            external_data = num_bytes > MAX_INLINE_BYTES  # how much stays in float32 is not known yet
            source = float32_file or path.with_name("float32.onnx")  # the quantizer wants a file
            if float32_file is None:
                self._onnx.save(str(source), external_data=external_data)
            quantize.to_int8(source, path, calibration_images, self._num_edits, external_data)

    @cached_property
    def _onnx(self) -> Any:
        return torch.onnx.export(
            self._program,
            dynamo=True,
            input_names=list(self._example),
            output_names=["translated"],
            opset_version=self._opset,
            verbose=False,
        )

    @cached_property
    def _program(self) -> ExportedProgram:
        return self._trace(self._module)

    def _trace(self, module: nn.Module) -> ExportedProgram:
        dynamic = Dim.DYNAMIC
        dynamic_shapes = {
            "image": {0: dynamic, 2: dynamic, 3: dynamic},
            "edit": {0: dynamic},
            "strength": {0: dynamic},
        }
        return torch.export.export(module, tuple(self._example.values()), dynamic_shapes=dynamic_shapes, strict=False)

    def _archive(self, kind: Kind) -> Any:
        """What a file in one of PyTorch's own formats holds."""
        module = self._module if kind.precision == "float32" else self._module.in_float16()
        if kind.format == "torchscript":
            trace: Any = torch.jit.trace  # PyTorch does not annotate it
            return trace(module, tuple(self._example.values()), check_trace=False)
        return self._program if kind.precision == "float32" else self._trace(module)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' warnings about their own internals (deprecations, missing kernels of torchvision)."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.utils._sympy", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
