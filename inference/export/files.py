"""Write a student and its teacher's VAE as model files, each checked against PyTorch before it is published."""

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
from inference.export import parity, quantize
from inference.export.formats import EXTRA_FILE, open_file, publish, set_properties
from inference.export.parity import ParityError, ParityReport
from inference.runtime import SCHEMA_VERSION, UInt8Array
from inference.settings import MAIN, ExportSettings, Kind, ModelMetadata
from synth.errors import ExportError, first_line
from synth.files import scratch_folder

GRAPH = 3
"""Version of what the graph computes. Raise it with each change, so that older files are exported again."""
MAX_INLINE_BYTES = 1536 * 2**20  # a protobuf file is limited to 2 GiB; PyTorch's exporter stays well below, too
TRACE_LATENTS = (17, 25)  # height and width: odd, and odd again when halved and rounded up; see `_Tracer`


class ExportModule(nn.Module):
    """All that a model file computes: image to latent, the student, and back as a change of pixels.

    It holds copies on the CPU, in `dtype`; the originals do not change. Inputs and output are always float32.

    Args:
        vae: a diffusers AutoencoderKL or AutoencoderTiny.
        student: forward(latents (N, C, h, w), edit int64 (N,)) -> delta (N, C, h, w).
        dtype: of the weights; in float16 the normalizations stay in float32.
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
        # Pixels a side of a latent: each level of the VAE but the last halves the sides.
        self.cell = 2 ** (len(vae.config.block_out_channels) - 1)

    def forward(self, image: Tensor, edit: Tensor, strength: Tensor) -> Tensor:
        """image (N, 3, H, W) in [-1, 1], edit int64 (N,), strength float (N,) -> translated (N, 3, H, W)."""
        encoded = self.vae.encode(image.to(self.dtype))
        # An AutoencoderTiny has no posterior: it returns the latents themselves.
        mean = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        z = (mean - self.shift) * self.scale  # (N, C, h, w)
        delta = self.student(z, edit)  # (N, C, h, w)
        amount = strength[:, None, None, None]  # (N, 1, 1, 1)
        # One pass of the decoder for both: its quantized ranges are then the same, and rounding treats both alike.
        both = torch.cat([z, z + amount.to(self.dtype) * delta])  # (2N, C, h, w)
        decoded = self.vae.decode(both / self.scale + self.shift).sample  # (2N, 3, H, W)
        plain = decoded[: image.shape[0]].float()  # (N, 3, H, W)
        edited = decoded[image.shape[0] :].float()  # (N, 3, H, W)
        # The change is computed first: (image + edited) - plain would round away the image's last bits.
        change = change_of_pixels(image, edited, plain, self.cell, strength)  # (N, 3, H, W)
        translated = (image + change).clamp(-1.0, 1.0)
        # Strength 0 is exact by construction: a matrix product may round the rows of a batch differently.
        return torch.where(amount == 0, image, translated)


class _ExactNorm(nn.Module):
    """A normalization in float32 within a float16 network: sums over a whole image overflow float16."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.float())
        return normed.to(x.dtype)


def _keep_norms_exact(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm | nn.LayerNorm):
            setattr(module, name, _ExactNorm(child))
        else:
            _keep_norms_exact(child)


def export_files(
    vae: Any,
    student: nn.Module,
    metadata: ModelMetadata,
    files: Mapping[Kind, Path],
    parity_images: UInt8Array,
    calibration_images: UInt8Array | None = None,
    settings: ExportSettings | None = None,
) -> Iterator[tuple[Kind, ParityReport]]:
    """Write `student` and `vae` as model files, each whole or not at all.

    Args:
        vae: as `ExportModule` takes it.
        student: as `ExportModule` takes it.
        metadata: what the files tell about themselves.
        files: the path of each kind of file. Where an ONNX file's weights exceed 1.5 GiB, they go into `<path>.data`.
        parity_images: a few real inputs, uint8 (N, H, W, 3). File and PyTorch are compared on them, resized to
            several sizes and batched.
        calibration_images: other images like them, for int8.
        settings: the opset is taken from here.

    Yields:
        Each kind with its parity report, once its file is written.

    Raises:
        ExportError: if the student's edits differ from the metadata's, or the student cannot be traced. After all
            other files are written, also if a file differs from PyTorch by more than its precision's bound; the file
            that was at its path before stays.
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
        raise ExportError("int8 needs images for its calibration, in addition to those of the check: synthesize more")
    opset = (settings or ExportSettings()).opset
    reference = ExportModule(vae, student)
    refused = []
    with tempfile.TemporaryDirectory(prefix="distillery-export-") as scratch:
        tracer = _Tracer(reference, Path(scratch), reference.cell, len(metadata.edits), opset)
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
                        reference.cell,
                    )
                except ParityError as error:  # stops no other file: all of them are raised at the end
                    refused.append(str(error))
                    continue
                # Only a file that has passed the check is described and moved to its place.
                properties = metadata.model_dump(mode="json") | {
                    "schema_version": SCHEMA_VERSION,
                    "size_multiple": reference.cell,
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
    """Writes a module's kinds of file, and traces it as seldom as possible.

    diffusers' U-Net decides in Python whether to pass sizes to its upsampling blocks: only where a side does not
    divide by 2^(levels - 1). The trace freezes that choice, so it must see such a size; the branch that it keeps is
    right for every size. The batch is 2 and H != W, because the tracer takes 1 and equal sides for constants.
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
        self._archives: dict[Kind, Any] = {}  # saved again with the metadata, after the check

    def write(self, kind: Kind, path: Path, calibration_images: UInt8Array) -> None:
        """Write one kind of file, without metadata.

        Raises:
            ExportError: if the exporter fails.
        """
        try:
            with _quiet(), torch.no_grad():
                if kind.format == "onnx":
                    self._write_onnx(kind, path, calibration_images)
                else:
                    self._archives[kind] = self._archive(kind)
                    self.describe(kind, path, {})
        except ExportError:
            raise
        except Exception as error:  # the exporters raise many kinds, all about the module that they were given
            raise ExportError(f"{_name(kind)} cannot be made from the student: {first_line(error)}") from error

    def describe(self, kind: Kind, path: Path, properties: dict[str, Any]) -> None:
        """Put metadata into the file at `path`, which `write` has made."""
        extra = {EXTRA_FILE: json.dumps(properties)}
        if kind.format == "onnx":
            set_properties(path, properties)
        elif kind.format == "torchscript":
            torch.jit.save(self._archives[kind], str(path), _extra_files=extra)
        else:
            torch.export.save(self._archives[kind], path, extra_files=extra)

    def _write_onnx(self, kind: Kind, path: Path, calibration_images: UInt8Array) -> None:
        num_bytes = sum(tensor.nbytes for tensor in self._module.state_dict().values())
        if kind == MAIN:  # the export itself; the other precisions are made from it
            self._onnx.save(str(path), external_data=num_bytes > MAX_INLINE_BYTES)
            return
        source = self._scratch / "float32.onnx"
        if not source.exists():
            self._onnx.save(str(source), external_data=num_bytes > MAX_INLINE_BYTES)
        if kind.precision == "float16":
            quantize.to_float16(source, path, external_data=num_bytes / 2 > MAX_INLINE_BYTES)
        else:
            external_data = num_bytes > MAX_INLINE_BYTES  # how much stays in float32 is not known yet
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
        module = self._module
        if kind.precision == "float16":
            module = ExportModule(module.vae, module.student, torch.float16)
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
