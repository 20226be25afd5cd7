"""What a new recipe has to know of a teacher, from its small files or, where they are not here, its name."""

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from synth.settings import TeacherSettings


@dataclass(frozen=True)
class TeacherKind:
    """A family of teachers, as far as recipes of it differ."""

    name: str
    student: str
    """The kind of student that can learn from it."""
    image_size: int | None
    """What a recipe asks for, in pixels; None leaves it to the teacher."""
    usual_size: int
    """What most teachers of the family paint, in pixels."""


MINIATURE_SIZE = 128  # px; equals the one in its folder, which is too slow to open here
PAPER_SIZE = 512  # px, as published
MINIATURE = TeacherKind("the miniature", "unet", None, MINIATURE_SIZE)
STABLE_DIFFUSION = TeacherKind("Stable Diffusion 1.x or 2.x", "unet", PAPER_SIZE, PAPER_SIZE)
STABLE_DIFFUSION_XL = TeacherKind("Stable Diffusion XL", "compact", None, 1024)
STABLE_DIFFUSION_3 = TeacherKind("Stable Diffusion 3", "compact", None, 1024)

_BY_PIPELINE = {
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionXLPipeline": STABLE_DIFFUSION_XL,
    "StableDiffusion3Pipeline": STABLE_DIFFUSION_3,
}
_BY_NAME = {r"xl": STABLE_DIFFUSION_XL, r"(stable-?diffusion|sd)[-_]?3": STABLE_DIFFUSION_3}


def kind_of(teacher: str) -> tuple[TeacherKind, bool]:
    """Tell what kind of teacher an id or a folder is. Nothing is downloaded for it.

    Args:
        teacher: `miniature`, a folder or a Hub id.

    Returns:
        The kind, and whether its name alone says so. A name that says nothing stands for Stable Diffusion 1.x or 2.x;
        a run's preflight finds out.
    """
    if teacher == TeacherSettings().id:
        return MINIATURE, False
    if (known := _BY_PIPELINE.get(_pipeline(teacher))) is not None:
        return known, False
    repository = teacher.rpartition("/")[2].lower()
    found = (kind for pattern, kind in _BY_NAME.items() if re.search(pattern, repository))
    return next(found, STABLE_DIFFUSION), True


def _pipeline(teacher: str) -> str:
    """The pipeline's class, of a folder or of the Hub's cache; "" if it is in neither, or not to be read."""
    path = Path(teacher) / "model_index.json"
    if not path.is_file() and find_spec("huggingface_hub") is not None:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(teacher, "model_index.json")
        except HFValidationError:  # a folder that is not there
            return ""
        path = Path(cached) if isinstance(cached, str) else path
    try:
        index = json.loads(path.read_bytes())
    except (OSError, ValueError):  # the run's preflight says what is wrong with it
        return ""
    name = index.get("_class_name") if isinstance(index, dict) else None
    return name if isinstance(name, str) else ""
