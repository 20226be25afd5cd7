"""A student and its teacher's VAE as model files, each held to PyTorch's own answers before it may exist."""

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from distill.composition import change_of_pixels
from distill.students import Student
from inference.export import parity
from inference.export import quantize as precision
from inference.export.formats import EXTRA_FILE, open_file, publish, set_properties
from inference.export.parity import ParityError, ParityReport
from inference.runtime import SCHEMA_VERSION, UInt8Array
from inference.settings import MAIN, ExportSettings, Kind, ModelMetadata
from synth.errors import ExportError
from synth.files import scratch_folder

GRAPH = 2
"""Of what the graph computes: raised with each change of it, so that files of before are made anew."""
MAX_INLINE_BYTES = 1536 * 2**20  # a protobuf file ends at 2 GiB, and PyTorch's exporter stays well below
TRACE_LATENTS = (17, 25)  # odd, and odd again when halved and rounded up: see `_Tracer`


class ExportModule(nn.Module):
    """The whole of a model file: image to latent, student, and back as a change of pixels.

    vae: a diffusers AutoencoderKL or AutoencoderTiny.
    student: forward(latents (N,C,h,w), edit int64 (N,)) -> delta (N,C,h,w).
    Holds copies on the CPU, in `dtype`; the originals stay as they are. Inputs and output are float32 always.
    """

    def __init__(self, vae: Any, student: nn.Module, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.vae = copy.deepcopy(vae)
        self.vae.disable_tiling()
        self.vae.disable_slicing()
        self.student = copy.deepcopy(student)
        self.cpu().to(dtype).eval()
        if dtype == torch.float16:
            _keep_norms_exact(self)
        self.scale = float(vae.config.scaling_factor)
        self.shift = float(vae.config.shift_factor or 0.0)
        self.dtype = dtype

    def forward(self, image: Tensor, edit: Tensor, strength: Tensor) -> Tensor:
        """image (N, 3, H, W) in [-1, 1], edit int64 (N,), strength float (N,) -> translated (N, 3, H, W).

        Both latents go through one decoder in one pass: then its quantised ranges are the same for both, and what
        rounding does to one it does to the other.
        """
        encoded = self.vae.encode(image.to(self.dtype))
        # An AutoencoderTiny has no posterior: it answers with the latents themselves.
        mean = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        z = (mean - self.shift) * self.scale  # (N, C, h, w)
        delta = self.student(z, edit)  # (N, C, h, w)
        amount = strength[:, None, None, None]  # (N, 1, 1, 1)
        both = torch.cat([z, z + amount.to(self.dtype) * delta])  # (2N, C, h, w)
        decoded = self.vae.decode(both / self.scale + self.shift).sample  # (2N, 3, H, W)
        plain, edited = decoded[: image.shape[0]].float(), decoded[image.shape[0] :].float()  # (N, 3, H, W) each
        # The change first: (image + edited) - base would round away the image's last bits.
        translated = (image + change_of_pixels(image, edited, plain, strength)).clamp(-1.0, 1.0)  # (N, 3, H, W)
        # By contract, not by luck: a matrix product may round the rows of a batch apart.
        return torch.where(amount == 0, image, translated)


class _ExactNorm(nn.Module):
    """A normalisation in float32 within a network in float16, as `precision` has it: sums over a whole image leave
    float16's range."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.float())
        return normed.to(x.dtype)


def _keep_norms_exact(module: nn.Module) -> None:
    for name, part in module.named_children():
        if isinstance(part, nn.GroupNorm | nn.LayerNorm):
            setattr(module, name, _ExactNorm(part))
        else:
            _keep_norms_exact(part)


def export_files(
    vae: Any,
    student: nn.Module,
    metadata: ModelMetadata,
    files: Mapping[Kind, Path],
    parity_images: UInt8Array,
    calibration_images: UInt8Array | None = None,
    settings: ExportSettings | None = None,
) -> Iterator[tuple[Kind, ParityReport]]:
    """Write `student` and `vae` as the files that are asked for, whole or not at all; yields each once it is there.

    files: where each kind goes. Weights beyond 1.5 GiB of an ONNX file go into `<path>.data` beside it.
    parity_images: a few real inputs, uint8 (N, H, W, 3); resized, they are what a file and PyTorch are compared on,
        at several sizes and batches.
    calibration_images: others like them, for int8.

    Raises ExportError when the student's edits are not the metadata's, when it cannot be traced, and, after all
    others are written, for a file that disagrees with PyTorch by more than its precision's bound; what was at its
    path before stays.
    """
    if parity_images.ndim != 4 or parity_images.shape[-1] != 3 or len(parity_images) == 0:
        raise ExportError(f"parity_images has shape {parity_images.shape}: give uint8 images (N, H, W, 3)")
    if isinstance(student, Student) and list(student.edits) != list(metadata.edits):
        raise ExportError(
            f"the student knows {', '.join(student.edits)} and the metadata names {', '.join(metadata.edits)}: "
            "an edit's number is its place in that list, so give the same names in the same order"
        )
    if calibration_images is None:
        calibration_images = parity_images[:0]
    if any(kind.precision == "int8" for kind in files) and len(calibration_images) == 0:
        raise ExportError("int8 needs images to be calibrated on besides those it is checked on: paint more")
    opset = (settings or ExportSettings()).opset
    size_multiple = 2 ** (len(vae.config.block_out_channels) - 1)
    reference = ExportModule(vae, student)
    refused = []
    with tempfile.TemporaryDirectory(prefix="distillery-export-") as scratch:
        tracer = _Tracer(reference, Path(scratch), size_multiple, len(metadata.edits), opset)
        for kind, path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with scratch_folder(path) as folder:
                draft = folder / path.name  # the same name: an ONNX file names its data file
                tracer.write(kind, draft, calibration_images)
                try:
                    report = parity.check(
                        reference,
                        open_file(draft, kind.format),
                        _name(kind),
                        kind.precision,
                        parity_images,
                        len(metadata.edits),
                        metadata.training_size,
                        size_multiple,
                    )
                except ParityError as error:
                    refused.append(str(error))
                    continue
                properties = metadata.model_dump(mode="json") | {
                    "schema_version": SCHEMA_VERSION,
                    "size_multiple": size_multiple,
                    **({"opset": opset} if kind.format == "onnx" else {"torch": torch.__version__}),
                    "precision": kind.precision,
                    "parity_max_difference": report.max_difference,
                    "parity_min_psnr_db": report.min_psnr_db,
                    "parity_cases": [asdict(case) for case in report.cases],
                }
                tracer.describe(kind, draft, properties)
                publish(draft, path)
            yield kind, report
    if refused:
        raise ExportError("; ".join(refused))


def _name(kind: Kind) -> str:
    return f"the {kind.precision} {kind.format} file"


class _Tracer:
    """Writes the kinds of file of one module, and traces no more often than it must.

    diffusers' U-Net decides in Python whether to hand sizes up to its upsampling blocks: only when a side
    does not divide by 2^(levels - 1). The trace freezes that choice, so it must see such a size; the branch
    that it then keeps is right for every size. Batch 2 and H != W, or the tracer takes them for constants.
    """

    def __init__(self, module: ExportModule, scratch: Path, size_multiple: int, num_edits: int, opset: int):
        self._module = module
        self._scratch = scratch
        self._opset = opset
        self._num_edits = num_edits
        height, width = (side * size_multiple for side in TRACE_LATENTS)
        self._example = {
            "image": torch.zeros(2, 3, height, width),
            "edit": torch.tensor([0, num_edits - 1]),
            "strength": torch.tensor([1.0, 0.5]),
        }
        self._archives: dict[Kind, Any] = {}  # what to save again once there is something to say about it

    def write(self, kind: Kind, path: Path, calibration_images: UInt8Array) -> None:
        """Write one kind, without metadata. Raises ExportError when it cannot be made."""
        try:
            with _quiet(), torch.no_grad():
                if kind.format == "onnx":
                    self._write_onnx(kind, path, calibration_images)
                else:
                    self._archives[kind] = self._archive(kind)
                    self.describe(kind, path, {})
        except ExportError:
            raise
        except Exception as error:  # the exporters raise many kinds, all of them about the module they were given
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ExportError(f"{_name(kind)} cannot be made of the student: {reason}") from error

    def describe(self, kind: Kind, path: Path, properties: dict[str, Any]) -> None:
        """Put metadata into the file at `path`."""
        extra = {EXTRA_FILE: json.dumps(properties)}
        if kind.format == "onnx":
            set_properties(path, properties)
        elif kind.format == "torchscript":
            torch.jit.save(self._archives[kind], str(path), _extra_files=extra)
        else:
            torch.export.save(self._archives[kind], path, extra_files=extra)

    def _write_onnx(self, kind: Kind, path: Path, calibration_images: UInt8Array) -> None:
        num_bytes = sum(tensor.nbytes for tensor in self._module.state_dict().values())
        if kind == MAIN:
            self._onnx.save(str(path), external_data=num_bytes > MAX_INLINE_BYTES)
            return
        source = self._scratch / "float32.onnx"
        if not source.exists():
            self._onnx.save(str(source), external_data=num_bytes > MAX_INLINE_BYTES)
        if kind.precision == "float16":
            precision.to_float16(source, path, external_data=num_bytes / 2 > MAX_INLINE_BYTES)
        else:
            external_data = num_bytes > MAX_INLINE_BYTES  # what stays in float32 is not known before
            precision.to_int8(source, path, calibration_images, self._num_edits, external_data)

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
        free = Dim.DYNAMIC
        dynamic_shapes = {"image": {0: free, 2: free, 3: free}, "edit": {0: free}, "strength": {0: free}}
        return torch.export.export(module, tuple(self._example.values()), dynamic_shapes=dynamic_shapes, strict=False)

    def _archive(self, kind: Kind) -> Any:
        """What PyTorch's own two kinds of file hold."""
        module = self._module
        if kind.precision == "float16":
            module = ExportModule(module.vae, module.student, torch.float16)
        if kind.format == "torchscript":
            trace: Any = torch.jit.trace  # PyTorch does not annotate it
            return trace(module, tuple(self._example.values()), check_trace=False)
        return self._program if kind.precision == "float32" else self._trace(module)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' remarks on their own insides (deprecations, kernels of torchvision not found)."""
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
