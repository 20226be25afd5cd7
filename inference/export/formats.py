"""The kinds of model file: how each is opened, and where each keeps what it says about itself.

ONNX has it in its own metadata, one JSON value a property; the archives of PyTorch in an extra file, one JSON object.
"""

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch

from inference.export.parity import Run
from inference.runtime import METADATA_PREFIX
from inference.settings import Format
from synth.errors import ExportError
from synth.files import put, scratch_folder

EXTRA_FILE = "distillery.json"
"""The name of the metadata in a .torchscript or .pt2 file, as torch.jit.load and torch.export.load ask for it."""
INPUTS = ("image", "edit", "strength")
_EXTRA_PLACE = f"extra/{EXTRA_FILE}"
_UNREADABLE = (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zlib.error, zipfile.BadZipFile)
_MAX_METADATA = 1_000_000  # bytes
PRODUCER = "dds-distillery"


def open_file(path: Path, format: Format) -> Run:
    """The file as a function of its inputs by name, on the CPU."""
    if format == "onnx":
        return _open_onnx(path)
    load: Any = torch.jit.load  # PyTorch does not annotate it
    # torch.export guards the branches that diffusers' upsampling takes in Python by the size that was traced; the
    # ones it kept are right for every size (see `inference.export.files`), which is what parity tries.
    is_script = format == "torchscript"
    network = load(str(path)) if is_script else torch.export.load(path).module(check_guards=False)

    def run(feeds: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            translated: npt.NDArray[np.float32] = network(*(torch.from_numpy(feeds[name]) for name in INPUTS)).numpy()
        return translated

    return run


def _open_onnx(path: Path) -> Run:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors come as exceptions
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(feeds: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
        translated: npt.NDArray[np.float32] = session.run(["translated"], feeds)[0]
        return translated

    return run


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a model file of any kind, told by its name's ending, says about itself."""
    path = Path(path)
    if path.suffix == ".onnx":
        model = onnx.load(str(path), load_external_data=False)
        ours = {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith(METADATA_PREFIX)}
        return {key.removeprefix(METADATA_PREFIX): json.loads(value) for key, value in ours.items()}
    return _read_extra_file(path)


def _read_extra_file(path: Path) -> dict[str, Any]:
    """The metadata in one of PyTorch's archives, out of the zip: to load the file would be to run its code."""
    try:
        with zipfile.ZipFile(path) as archive:
            ours = [entry for entry in archive.infolist() if entry.filename.endswith(f"/{_EXTRA_PLACE}")]
            if len(ours) != 1:
                raise ValueError(f"it has {len(ours)} entries {EXTRA_FILE}, not one")
            # What an entry says of its size may be a lie, so no more than the bound is read.
            with archive.open(ours[0]) as file:
                content = file.read(_MAX_METADATA + 1)
        if len(content) > _MAX_METADATA:
            raise ValueError(f"its metadata is longer than {_MAX_METADATA} bytes")
        metadata = json.loads(content)
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no table")
        return metadata
    except _UNREADABLE as error:
        raise ExportError(f"{path} has no metadata that can be read ({error}): export it again") from None


def set_properties(path: Path, properties: dict[str, Any]) -> None:
    """Set metadata properties, each one JSON value, in the ONNX file at `path`; others stay."""
    model = onnx.load(str(path), load_external_data=False)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    entries |= {f"{METADATA_PREFIX}{key}": json.dumps(value) for key, value in properties.items()}
    onnx.helper.set_model_props(model, entries)
    model.producer_name = PRODUCER
    onnx.save(model, str(path))


def record_metrics(path: str | os.PathLike[str], metrics: dict[str, Any]) -> None:
    """Put the metrics that were measured on the ONNX file at `path` into its metadata, in place of older ones."""
    path = Path(path)
    with scratch_folder(path) as scratch:
        draft = scratch / path.name
        draft.write_bytes(path.read_bytes())
        set_properties(draft, {"metrics": metrics})
        put(draft, path)  # weights beside it, if any, are the same


def publish(draft: Path, path: Path) -> None:
    """Move a finished file, and its weights if they lie beside it, to where people look for it."""
    draft_data, data = (file.with_name(file.name + ".data") for file in (draft, path))
    if draft_data.exists():
        path.unlink(missing_ok=True)  # absent for a moment rather than joined to another model's weights
        put(draft_data, data)
        put(draft, path)
    else:
        put(draft, path)
        data.unlink(missing_ok=True)
