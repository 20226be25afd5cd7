"""The formats of a model file: how each is opened, and where each keeps its metadata.

An ONNX file keeps it in its own metadata, one JSON value a property. PyTorch's archives keep it in an extra file, one
JSON object.
"""

import json
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from inference.export.parity import Run
from inference.idle_gpu import warn_of_idle_gpu
from inference.runtime import (
    METADATA_PREFIX,
    PROVIDERS,
    ModelFileError,
    best_providers,
    check_metadata,
    new_session,
    onnx_runtime,
)
from inference.settings import Format
from synth.errors import ExportError, first_line
from synth.files import put, write_bytes
from synth.state import parse_json, reading

logger = logging.getLogger(__name__)

EXTRA_FILE = "distillery.json"
"""The name of the metadata in a .torchscript or .pt2 file, as torch.jit.load and torch.export.load ask for it."""
INPUTS = ("image", "edit", "strength")
PRODUCER = "dds-distillery"
_CPU = [PROVIDERS["cpu"]]
_EXTRA_SUFFIX = f"/extra/{EXTRA_FILE}"
_MAX_METADATA_BYTES = 1_000_000


def open_file(path: Path, format: Format, on_gpu: bool = False) -> Run:
    """Open a model file as a function of its inputs by name.

    PyTorch's own formats execute code as they load: open only files of this machine's making.

    Args:
        path: the file.
        format: of the file.
        on_gpu: whether ONNX Runtime runs it on a GPU, where PyTorch sees one and ONNX Runtime does, too. PyTorch's
            formats run on the CPU, on which they were traced.

    Raises:
        ExportError: if the file cannot be opened, or keeps weights outside its folder.
    """
    try:
        return _OnnxFile(path, on_gpu) if format == "onnx" else _open_archive(path, format)
    except Exception as error:  # neither onnxruntime's exceptions nor torch's share a base class
        raise ExportError(f"{path} cannot be opened ({first_line(error)}): export it again") from error


def _open_archive(path: Path, format: Format) -> Run:
    if format == "torchscript":
        load: Any = torch.jit.load  # PyTorch does not annotate it
        network = load(str(path))
    else:
        # torch.export guards the branches that diffusers' upsampling takes in Python by the size that was traced.
        # The branches it kept are right for every size (see `inference.export.files`); parity tries others.
        network = torch.export.load(path).module(check_guards=False)

    def run(feeds: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            translated: npt.NDArray[np.float32] = network(*(torch.from_numpy(feeds[name]) for name in INPUTS)).numpy()
        return translated

    return run


def has_gpu() -> bool:
    """Whether files, and PyTorch's answers, are computed on a GPU of NVIDIA's."""
    return torch.cuda.is_available()


class _OnnxFile:
    """An ONNX file in a session, which ends with this object: of a full-size network it holds gigabytes."""

    def __init__(self, path: Path, on_gpu: bool) -> None:
        self._path = path
        self._names = best_providers() if on_gpu and has_gpu() else _CPU
        try:
            self._session = _new_session(path, self._names)
        except Exception as error:
            self._fall_back(error)
        if on_gpu:
            warn_of_idle_gpu(self._session.get_providers())

    def __call__(self, feeds: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
        try:
            return self._run(feeds)
        except Exception as error:
            self._fall_back(error)
            return self._run(feeds)

    def _run(self, feeds: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
        translated: npt.NDArray[np.float32] = self._session.run(["translated"], feeds)[0]
        return translated

    def _fall_back(self, error: Exception) -> None:
        """Go on without the GPU, whose driver may be too old, or its memory too small for a check's sizes.

        Raises:
            Exception: the error, if it is the CPU's: that one tells whether the file is right.
        """
        if self._names == _CPU:
            raise error
        logger.warning(f"ONNX Runtime cannot run {self._path.name} on the GPU ({first_line(error)}): the CPU does it")
        self._names, self._session = _CPU, _new_session(self._path, _CPU)


def _new_session(path: Path, names: list[str]) -> Any:
    options = onnx_runtime().SessionOptions()
    options.log_severity_level = 4  # its errors come as exceptions
    return new_session(str(path), options, names, {"use_tf32": "0"})  # TensorFloat-32 keeps ten bits


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a model file's metadata; the ending of its name tells the format.

    Nothing is loaded or executed: of PyTorch's archives only the one entry of the zip is read.

    Raises:
        ExportError: if there is no metadata, or it is damaged, incomplete or beyond the runtime's bounds.
    """
    path = Path(path)
    with reading(path, ExportError, "export it again"):
        properties = _onnx_properties(path) if path.suffix == ".onnx" else _archive_properties(path)
    try:
        return check_metadata(properties, path)
    except ModelFileError as error:
        raise ExportError(str(error)) from None


def _onnx_properties(path: Path) -> dict[str, str]:
    """The project's properties in an ONNX file, each one JSON value."""
    model = onnx.load(str(path), load_external_data=False)
    ours = {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith(METADATA_PREFIX)}
    return {key.removeprefix(METADATA_PREFIX): value for key, value in ours.items()}


def _archive_properties(path: Path) -> dict[str, str]:
    """The same of one of PyTorch's archives, read out of the zip: loading the file would run its code."""
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(_EXTRA_SUFFIX)]
        if len(entries) != 1:
            raise ValueError(f"it has {len(entries)} entries {EXTRA_FILE}, not one")
        # The size that an entry states may be a lie, so the reading itself is bounded.
        with archive.open(entries[0]) as file:
            content = file.read(_MAX_METADATA_BYTES + 1)
    if len(content) > _MAX_METADATA_BYTES:
        raise ValueError(f"its metadata is longer than {_MAX_METADATA_BYTES} bytes")
    metadata: dict[str, Any] = parse_json(content, dict[str, Any])
    return {key: json.dumps(value) for key, value in metadata.items()}


def set_properties(path: Path, properties: dict[str, Any]) -> None:
    """Set metadata properties, each one JSON value, in the ONNX file at `path`; others stay."""
    model = onnx.load(str(path), load_external_data=False)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    entries |= {f"{METADATA_PREFIX}{key}": json.dumps(value) for key, value in properties.items()}
    onnx.helper.set_model_props(model, entries)
    model.producer_name = PRODUCER
    # Not onnx.save: it also writes to the data files that the model names.
    write_bytes(path, model.SerializeToString())


def record_metrics(path: str | os.PathLike[str], metrics: dict[str, Any]) -> None:
    """Replace the metrics in the metadata of the ONNX file at `path`."""
    set_properties(Path(path), {"metrics": metrics})  # external weights, if any, stay as they are


def publish(draft: Path, path: Path) -> None:
    """Move a finished file, and the weights that lie beside it, to where people look for it."""
    draft_data, data = (file.with_name(file.name + ".data") for file in (draft, path))
    if draft_data.exists():
        path.unlink(missing_ok=True)  # absent for a moment rather than joined to another model's weights
        put(draft_data, data)
        put(draft, path)
    else:
        put(draft, path)
        data.unlink(missing_ok=True)
