"""CLIP (Radford and others, 2021), opened from a folder or the Hub: for the dataset's filters and the evaluation."""

from typing import Any, NamedTuple

from synth.errors import TeacherError


class Clip(NamedTuple):
    """transformers' classes, frozen and on the CPU."""

    model: Any
    tokenizer: Any
    processor: Any


def load_clip(name: str) -> Clip:
    """Open a CLIP model.

    Args:
        name: a folder or a Hub id.

    Raises:
        TeacherError: if it cannot be opened.
    """
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    try:
        return Clip(
            CLIPModel.from_pretrained(name, use_safetensors=True).eval().requires_grad_(False),
            CLIPTokenizer.from_pretrained(name),
            CLIPImageProcessorPil.from_pretrained(name),
        )
    except Exception as error:  # transformers', the Hub's and safetensors' errors share no base class
        raise cannot_open(name, "CLIP", error) from None


def cannot_open(name: str, kind: str, error: Exception) -> TeacherError:
    """The error for a model that is missing or of another kind, with the first line of its cause."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return TeacherError(f"{name} cannot be opened as a {kind} model ({reason}): name a folder or a Hub id")
