"""The package's settings, and the metadata of a model file. Nothing heavy is imported."""

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from synth.settings import Settings

Format = Literal["onnx", "torchscript", "pt2"]
Precision = Literal["float32", "float16", "int8"]

OWN_VAE = "teacher"
"""The value of `export.vae` that means the teacher's own."""


class Kind(NamedTuple):
    """The format of a model file and the precision of its weights."""

    format: Format
    precision: Precision

    @property
    def file_name(self) -> str:
        """`model.onnx`, `model-float16.pt2`."""
        return f"model{'' if self.precision == 'float32' else f'-{self.precision}'}.{self.format}"

    @property
    def pixel_file_name(self) -> str:
        """The same of a pixel network: `model.pixel.onnx`, `model.pixel-float16.pt2`."""
        return f"model.pixel{self.file_name.removeprefix('model')}"


MAIN = Kind("onnx", "float32")
"""The file that is always written: a run's metrics are measured on it, and the runtime runs it everywhere."""


class ExportSettings(Settings):
    """How a student becomes model files."""

    formats: Annotated[tuple[Format, ...], Field(min_length=1)] = ("onnx",)
    """`onnx` for everything but Python with torch; `torchscript` for torch in C++, `pt2` for torch.export."""
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)] = ("float32",)
    """Precisions of the files' weights, whatever the teacher ran in. float16 halves a file and is for GPUs; int8 is
    for CPUs, for `onnx` alone, and calibrated on the dataset."""
    opset: Annotated[int, Field(ge=18, le=23)] = 20
    """ONNX operator set. All of these keep parity; 20 gives the fastest file on a CPU: with 21 to 23 the same
    small model took four times as long to load and 14 to 30 % longer to run (onnxruntime 1.31)."""

    vae: str = OWN_VAE
    """`teacher` for the teacher's own, or a folder or Hub id of an AutoencoderTiny made for the same latents, such as
    `madebyollin/taesd` for Stable Diffusion 1.x and 2.x: faster, and it loses more detail. A run's metrics are
    measured on its files, and show how much."""

    @model_validator(mode="after")
    def _check_int8(self) -> Self:
        if "int8" in self.precisions and "onnx" not in self.formats:
            raise ValueError("int8 is for the format onnx alone: add it to the formats, or leave int8 out")
        return self

    def kinds(self) -> list[Kind]:
        """The files to write: the main one first, then each format in each precision that it supports."""
        wanted = [Kind(format, precision) for format in self.formats for precision in self.precisions]
        possible = [kind for kind in wanted if kind.precision != "int8" or kind.format == "onnx"]
        return list(dict.fromkeys([MAIN, *possible]))


EVERY_KIND = ExportSettings(formats=("onnx", "torchscript", "pt2"), precisions=("float32", "float16", "int8")).kinds()


class ModelMetadata(Settings):
    """The metadata of a model file; the exporter adds schema, sizes and parity."""

    name: str
    edits: Annotated[dict[str, str], Field(min_length=1)]
    """Each edit's name and an example of its target prompt, in the order of the student's contexts."""
    training_size: Annotated[int, Field(gt=0, le=8192)]
    """Side of the square images that the student was trained on, in pixels."""
    network: str = "student"
    """What computes the edits, for readers, such as "pixel network, small"."""
    teacher: str
    """The teacher's id, for readers."""
    licence: str
    """The teacher's licence: it binds the student, too."""
    vae: str = OWN_VAE
    """The VAE in the file, if it is not the teacher's own."""
    data_fingerprint: str
    """Fingerprint of the dataset."""
    validated_on: str
    """Where the metrics come from, e.g. "drawn scenes of the miniature, test split"."""
    metrics: dict[str, Any] = Field(default_factory=dict)
    """The evaluation's metrics; `formats.record_metrics` sets them once the file has been measured."""
