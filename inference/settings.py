"""The settings that this room owns, and what a model file says about itself. No torch here."""

from typing import Annotated, Any, Literal

from pydantic import Field

from synth.settings import Settings


class ExportSettings(Settings):
    """How a student becomes a model file."""

    opset: Annotated[int, Field(ge=18, le=23)] = 20
    """ONNX operator set. All of these keep parity; 20 gives the quickest file on a CPU: with 21 to 23 the same
    small model took four times as long to load and 14 to 30 % longer to run (onnxruntime 1.31)."""
    precision: Literal["float32"] = "float32"
    """Number format of the file's weights, whatever the teacher ran in."""


class ModelMetadata(Settings):
    """What a model file tells whoever opens it; the exporter adds schema, sizes and parity."""

    name: str
    edits: Annotated[dict[str, str], Field(min_length=1)]
    """Each edit's name and an example of its target prompt, in the order of the student's contexts."""
    training_size: Annotated[int, Field(gt=0)]
    """Side of the square images that the student learnt from, in pixels."""
    teacher: str
    """The teacher's id, for people."""
    licence: str
    """The teacher's licence: it binds the student too."""
    data_fingerprint: str
    """Fingerprint of the painted set."""
    validated_on: str
    """Where the metrics come from, e.g. "drawn scenes of the miniature, test split"."""
    metrics: dict[str, Any] = Field(default_factory=dict)
    """Figures of the evaluation; `export.record_metrics` sets them once the file was measured."""
