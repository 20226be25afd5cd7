"""The loaded teacher that the stages of a run share."""

import gc
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from synth.settings import TeacherSettings

if TYPE_CHECKING:
    from synth.teacher.teacher import Teacher


@lru_cache(maxsize=1)
def open_teacher(settings: TeacherSettings) -> "Teacher":
    """Load a teacher, and keep the last one loaded.

    Raises:
        TeacherError: if it cannot be loaded.
    """
    import diffusers
    import transformers

    from synth.teacher.teacher import Teacher

    # A bar for each of the model's small files would flood the terminal.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    return Teacher.load(settings)


def release_teacher() -> None:
    """Forget the last teacher loaded, and give the memory that it holds on a GPU to other processes."""
    open_teacher.cache_clear()
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
