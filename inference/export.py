"""A student and its teacher's VAE as one ONNX file, held to PyTorch's own answers before it may exist."""

import copy
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.export import Dim

from distill.translator import LatentTranslator
from inference.runtime import METADATA_PREFIX, SCHEMA_VERSION
from inference.settings import ExportSettings, ModelMetadata
from synth.errors import ExportError

PARITY_TOLERANCE = 1e-3  # largest difference between ONNX Runtime and PyTorch, in [-1, 1] pixels
MAX_INLINE_BYTES = 1536 * 2**20  # a protobuf file ends at 2 GiB, and PyTorch's exporter stays well below
TRACE_LATENTS = (17, 25)  # odd, and odd again when halved and rounded up: see `_trace`

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ParityCase:
    """One comparison of ONNX Runtime with PyTorch."""

    batch: int
    height: int
    width: int
    max_difference: float


@dataclass(frozen=True)
class ParityReport:
    """All comparisons that an exported file passed."""

    cases: tuple[ParityCase, ...]

    @property
    def max_difference(self) -> float:
        """The largest difference of all, in [-1, 1] pixels."""
        return max(case.max_difference for case in self.cases)


class ExportModule(nn.Module):
    """The whole of a model file: image to latent, student, and back as a difference of pixels.

    vae: a diffusers AutoencoderKL. student: forward(latents (N,C,h,w), edit int64 (N,)) -> delta (N,C,h,w).
    Holds float32 copies on the CPU; the originals stay as they are.
    """

    def __init__(self, vae: Any, student: nn.Module):
        super().__init__()
        self.vae = copy.deepcopy(vae).cpu().float().eval()
        self.vae.disable_tiling()
        self.vae.disable_slicing()
        self.student = copy.deepcopy(student).cpu().float().eval()
        self.scale = float(vae.config.scaling_factor)
        self.shift = float(vae.config.shift_factor or 0.0)

    def forward(self, image: Tensor, edit: Tensor, strength: Tensor) -> Tensor:
        """image (N, 3, H, W) in [-1, 1], edit int64 (N,), strength float (N,) -> translated (N, 3, H, W).

        Exactly the image at strength 0, for both decodes are then the same computation.
        """
        z = (self.vae.encode(image).latent_dist.mode() - self.shift) * self.scale  # (N, C, h, w)
        delta = self.student(z, edit)  # (N, C, h, w)
        edited = self._decode(z + strength[:, None, None, None] * delta)  # (N, 3, H, W)
        # The difference first: (image + edited) - plain would round away the image's last bits.
        return (image + (edited - self._decode(z))).clamp(-1.0, 1.0)

    def _decode(self, latents: Tensor) -> Tensor:
        image: Tensor = self.vae.decode(latents / self.scale + self.shift).sample  # (N, 3, H, W)
        return image


def export_onnx(
    vae: Any,
    student: nn.Module,
    metadata: ModelMetadata,
    path: str | os.PathLike[str],
    parity_images: UInt8Array,
    settings: ExportSettings | None = None,
) -> ParityReport:
    """Write `student` and `vae` as one ONNX file at `path`, whole or not at all.

    parity_images: a few real inputs, uint8 (N, H, W, 3); resized, they are what ONNX Runtime and PyTorch
    are compared on, at several sizes and batches. Weights beyond 1.5 GiB go into `<path>.data` beside it.

    Raises ExportError when the student's edits are not the metadata's, when it cannot be traced, or when the
    file disagrees with PyTorch by more than PARITY_TOLERANCE; then nothing is at `path` that was not there before.
    """
    settings = settings or ExportSettings()
    path = Path(path)
    if parity_images.ndim != 4 or parity_images.shape[-1] != 3 or len(parity_images) == 0:
        raise ExportError(f"parity_images has shape {parity_images.shape}: give uint8 images (N, H, W, 3)")
    if isinstance(student, LatentTranslator) and list(student.edits) != list(metadata.edits):
        raise ExportError(
            f"the student knows {', '.join(student.edits)} and the metadata names {', '.join(metadata.edits)}: "
            "an edit's number is its place in that list, so give the same names in the same order"
        )
    module = ExportModule(vae, student)
    size_multiple = 2 ** (len(vae.config.block_out_channels) - 1)
    program = _trace(module, size_multiple, len(metadata.edits), settings.opset)

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        draft = Path(scratch) / path.name  # the same name: the ONNX file names its data file
        num_bytes = sum(tensor.nbytes for tensor in module.state_dict().values())
        program.save(str(draft), external_data=num_bytes > MAX_INLINE_BYTES)
        report = _check_parity(module, draft, parity_images, metadata, size_multiple)
        properties = metadata.model_dump(mode="json") | {
            "schema_version": SCHEMA_VERSION,
            "size_multiple": size_multiple,
            "opset": settings.opset,
            "precision": settings.precision,
            "parity_max_difference": report.max_difference,
            "parity_cases": [asdict(case) for case in report.cases],
        }
        _set_properties(draft, properties)
        _publish(draft, path)
    return report


def record_metrics(path: str | os.PathLike[str], metrics: dict[str, Any]) -> None:
    """Put the figures that were measured on the model file at `path` into its metadata, in place of older ones."""
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        draft = Path(scratch) / path.name
        draft.write_bytes(path.read_bytes())
        _set_properties(draft, {"metrics": metrics})
        _sync(draft)
        os.replace(draft, path)  # weights beside it, if any, are the same


def _trace(module: ExportModule, size_multiple: int, num_edits: int, opset: int) -> Any:
    """The module as an ONNX program whose batch, height and width are free.

    diffusers' U-Net decides in Python whether to hand sizes up to its upsampling blocks: only when a side
    does not divide by 2^(levels - 1). The trace freezes that choice, so it must see such a size; the branch
    that it then keeps is right for every size. Batch 2 and H != W, or the tracer takes them for constants.
    """
    height, width = (side * size_multiple for side in TRACE_LATENTS)
    example = {
        "image": torch.zeros(2, 3, height, width),
        "edit": torch.tensor([0, num_edits - 1]),
        "strength": torch.tensor([1.0, 0.5]),
    }
    free = Dim.DYNAMIC
    dynamic_shapes = {"image": {0: free, 2: free, 3: free}, "edit": {0: free}, "strength": {0: free}}
    try:
        with _quiet(), torch.no_grad():
            return torch.onnx.export(
                module,
                kwargs=example,
                dynamo=True,
                dynamic_shapes=dynamic_shapes,
                input_names=list(example),
                output_names=["translated"],
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds, all of them about the module it was given
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"the student cannot be exported to ONNX: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks on its own insides (deprecations, kernels of torchvision not found)."""
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


def _parity_sizes(training_size: int, size_multiple: int) -> list[tuple[int, int, int]]:
    """(batch, height, width) to compare at: square as trained, odd multiples of both kinds, wide, tall."""

    def odd(fraction: float) -> int:
        return size_multiple * (2 * round((training_size * fraction / size_multiple - 1) / 2) + 1)

    square = size_multiple * max(1, round(training_size / size_multiple))
    return [(1, square, square), (3, odd(0.56), odd(0.81)), (2, odd(1.06), square), (1, square, odd(0.56))]


def _check_parity(
    module: ExportModule, draft: Path, images: UInt8Array, metadata: ModelMetadata, size_multiple: int
) -> ParityReport:
    """Compare the file with PyTorch, over every edit and several strengths; ExportError where they differ."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors come as exceptions
    session = ort.InferenceSession(str(draft), options, providers=["CPUExecutionProvider"])
    pixels = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1.0  # (N, 3, H, W) in [-1, 1]
    cases = []
    drawn = 0  # samples so far: edits, strengths and images take turns over all cases
    for batch, height, width in _parity_sizes(metadata.training_size, size_multiple):
        turns = torch.arange(drawn, drawn + batch)
        drawn += batch
        small = nn.functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
        image = small[turns % len(small)].clamp(-1.0, 1.0)  # (batch, 3, height, width)
        edit = turns % len(metadata.edits)
        strength = torch.tensor([1.0, 0.5, 1.5])[turns % 3]
        with torch.no_grad():
            expected = module(image, edit, strength).numpy()
        feeds = {"image": image.numpy(), "edit": edit.numpy(), "strength": strength.numpy()}
        where = f"at {height}x{width}, batch {batch}"
        try:
            actual = session.run(["translated"], feeds)[0]
            untouched = session.run(["translated"], feeds | {"strength": np.zeros(batch, np.float32)})[0]
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            reason = str(error).splitlines()[0]
            raise ExportError(f"the exported file fails {where}, nothing was written: {reason}") from error
        if actual.shape != expected.shape:
            raise ExportError(f"the exported file gives {actual.shape} for PyTorch's {expected.shape} {where}")
        difference = float(np.abs(actual - expected).max())
        if not difference <= PARITY_TOLERANCE:  # so written, a NaN fails too
            raise ExportError(
                f"the exported file differs from PyTorch by {difference:.2g} {where}, more than "
                f"{PARITY_TOLERANCE:g}: nothing was written; the student does something that tracing loses"
            )
        if not np.array_equal(untouched, feeds["image"]):
            raise ExportError(f"the exported file changes the image at strength 0 {where}: nothing was written")
        cases.append(ParityCase(batch, height, width, difference))
    return ParityReport(tuple(cases))


def _set_properties(path: Path, properties: dict[str, Any]) -> None:
    """Set metadata properties, each one JSON value, in the ONNX file at `path`; others stay."""
    model = onnx.load(str(path), load_external_data=False)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    entries |= {f"{METADATA_PREFIX}{key}": json.dumps(value) for key, value in properties.items()}
    onnx.helper.set_model_props(model, entries)
    model.producer_name = "dds-distillery"
    onnx.save(model, str(path))


def _publish(draft: Path, path: Path) -> None:
    """Move a finished file, and its weights if they lie beside it, to where people look for it."""
    draft_data, data = (file.with_name(file.name + ".data") for file in (draft, path))
    _sync(draft)
    if draft_data.exists():
        _sync(draft_data)
        path.unlink(missing_ok=True)  # absent for a moment rather than joined to another model's weights
        os.replace(draft_data, data)
        os.replace(draft, path)
    else:
        os.replace(draft, path)
        data.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
