"""Write networks as model files, each checked against PyTorch before it is published."""

import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.pixel import PixelNetwork
from distill.students import Student
from inference.export import parity
from inference.export.formats import has_gpu, open_file, publish
from inference.export.modules import ExportModule, FileModule, PixelModule, with_shared_weights
from inference.export.parity import Example, ParityError, ParityReport
from inference.export.tracing import TRACE_LATENTS, TRACE_PIXELS, Tracer, name_of
from inference.runtime import SCHEMA_VERSION, UInt8Array, onnx_runtime
from inference.settings import MAIN, ExportSettings, Kind, ModelMetadata
from synth.errors import ExportError
from synth.files import scratch_folder

logger = logging.getLogger(__name__)

GRAPH = 3
"""Version of what the graph computes. Raise it with each change, so that older files are exported again."""


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
    if isinstance(student, Student):
        _check_edits(student.edits, metadata)
    module = ExportModule(vae, student)
    example_size = tuple(side * module.cell for side in TRACE_LATENTS)
    work = _Work(module, module, metadata, module.cell, example_size, settings or ExportSettings(), parity_images)
    yield from work.write(files, calibration_images)


def export_pixel_files(
    network: PixelNetwork,
    metadata: ModelMetadata,
    files: Mapping[Kind, Path],
    parity_images: UInt8Array,
    calibration_images: UInt8Array | None = None,
    settings: ExportSettings | None = None,
) -> Iterator[tuple[Kind, ParityReport]]:
    """Write a pixel network as model files, each whole or not at all; they keep the contract of the student's.

    The files have its normalizations folded, and are compared with the network as it was trained.

    Args:
        network: trained.
        metadata: as for `export_files`, and so are the other arguments.
        files: the path of each kind of file.
        parity_images: a few real inputs, uint8 (N, H, W, 3).
        calibration_images: other images like them, for int8.
        settings: the opset is taken from here.

    Yields:
        Each kind with its parity report, once its file is written.

    Raises:
        ExportError: as `export_files`.
    """
    _check_edits(network.edits, metadata)
    reference = copy.deepcopy(network).cpu().float().eval()
    work = _Work(
        PixelModule(network), reference, metadata, 1, TRACE_PIXELS, settings or ExportSettings(), parity_images
    )
    yield from work.write(files, calibration_images)


def _check_edits(edits: Mapping[str, str], metadata: ModelMetadata) -> None:
    if list(edits) != list(metadata.edits):
        raise ExportError(
            f"the student knows {', '.join(edits)} and the metadata names {', '.join(metadata.edits)}: "
            "an edit's number is its place in that list, so give the same names in the same order"
        )


@dataclass(frozen=True)
class _Work:
    """What the files of one network are made from."""

    module: FileModule
    """What they hold."""
    reference: nn.Module
    """What their answers are compared with."""
    metadata: ModelMetadata
    size_multiple: int
    example_size: tuple[int, ...]
    """Height and width of the images that are traced, in pixels."""
    settings: ExportSettings
    parity_images: UInt8Array

    def write(
        self, files: Mapping[Kind, Path], calibration_images: UInt8Array | None
    ) -> Iterator[tuple[Kind, ParityReport]]:
        """Write the files; see `export_files`."""
        onnx_runtime()  # before the hours that a trace and PyTorch's answers may take
        shape = self.parity_images.shape
        if len(shape) != 4 or shape[-1] != 3 or shape[0] == 0:
            raise ExportError(f"parity_images has shape {shape}: give uint8 images (N, H, W, 3)")
        if calibration_images is None:
            calibration_images = self.parity_images[:0]
        if any(kind.precision == "int8" for kind in files) and len(calibration_images) == 0:
            raise ExportError(
                "int8 needs images for its calibration, in addition to those of the check: synthesize more"
            )
        refused = []
        tracer = Tracer(self.module, self.example_size, len(self.metadata.edits), self.settings.opset)
        source = None
        for kind, path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with scratch_folder(path) as folder:
                draft = folder / path.name  # the same name: an ONNX file names its data file
                tracer.write(kind, draft, calibration_images, source)
                try:
                    report = self._check(kind, draft)
                except ParityError as error:  # stops no other file: all of them are raised at the end
                    refused.append(str(error))
                    continue
                # Only a file that has passed the check is described and moved to its place.
                tracer.describe(kind, draft, self._properties(kind, report))
                publish(draft, path)
            source = path if kind == MAIN else source
            yield kind, report
        if refused:
            raise ExportError("; ".join(refused))

    def _check(self, kind: Kind, draft: Path) -> ParityReport:
        # Eight bits are for CPUs.
        run = open_file(draft, kind.format, on_gpu=kind.precision != "int8")
        return parity.check(self._wanted, run, name_of(kind), kind.precision)

    @cached_property
    def _wanted(self) -> tuple[Example, ...]:
        """PyTorch's answers, computed once for all files: on a GPU where there is one with room."""
        if not has_gpu():
            return self._examples(self.reference)
        try:
            return self._examples(with_shared_weights(self.reference).cuda())
        except torch.OutOfMemoryError:
            logger.warning("the GPU's memory is too small for PyTorch's answers in float32: the CPU computes them")
        finally:
            torch.cuda.empty_cache()  # ONNX Runtime allocates its own
        return self._examples(self.reference)

    def _examples(self, reference: nn.Module) -> tuple[Example, ...]:
        num_edits, training_size = len(self.metadata.edits), self.metadata.training_size
        found = parity.examples(reference, self.parity_images, num_edits, training_size, self.size_multiple)
        return tuple(found)

    def _properties(self, kind: Kind, report: ParityReport) -> dict[str, Any]:
        """What a file that has passed the check says about itself."""
        return self.metadata.model_dump(mode="json") | {
            "schema_version": SCHEMA_VERSION,
            "size_multiple": self.size_multiple,
            **({"opset": self.settings.opset} if kind.format == "onnx" else {"torch": torch.__version__}),
            "precision": kind.precision,
            "parity_max_difference": report.max_difference,
            "parity_quantile": report.quantile,
            "parity_min_psnr_db": report.min_psnr_db,
            "parity_cases": [asdict(case) for case in report.cases],
        }
