"""The project's errors, one small tree.

    DistilleryError          bad input; its message is one line that says what was wrong and what to do
    ├── RecipeError          a recipe, a template or an override
    ├── TeacherError         a diffusion model that cannot be loaded or cannot do what is asked
    ├── DatasetError         a dataset folder that is missing, foreign or broken
    ├── ImageInputError      an image that cannot be edited
    ├── TrainingError        a training that cannot start, go on or be resumed
    ├── ExportError          a student that cannot be exported, or whose export fails parity
    ├── RunError             a run folder that does not fit the recipe
    └── FileError            a file that cannot be written, or is damaged

`inference.runtime` imports nothing of the project: its own errors derive from ValueError.
"""

import difflib
from collections.abc import Iterable

_MAX_SHOWN = 80  # characters of a name that somebody gave


class DistilleryError(Exception):
    """Root of the errors that a user can mend: the command prints one in one line and exits with 2."""


class RecipeError(DistilleryError):
    """A recipe, a template or an override is wrong."""


class TeacherError(DistilleryError):
    """The teacher cannot be loaded, or cannot do what was asked of it."""


class DatasetError(DistilleryError):
    """A dataset folder is missing, belongs to another recipe, or is broken."""


class ImageInputError(DistilleryError):
    """An image cannot be edited as asked."""


class TrainingError(DistilleryError):
    """A training cannot start, go on or be resumed."""


class ExportError(DistilleryError):
    """A student cannot be exported, or its export disagrees with PyTorch."""


class RunError(DistilleryError):
    """A run folder does not fit the recipe that is to be run in it."""


class FileError(DistilleryError):
    """A file cannot be written whole, or what is in it cannot be read back."""


def first_line(error: BaseException) -> str:
    """An error's message in one line: its first that is not empty, or the error's name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def printable(text: object) -> str:
    """Text from outside as a terminal may show it: what a terminal would obey is escaped, a newline as `\\n`."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:_MAX_SHOWN], names, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"
