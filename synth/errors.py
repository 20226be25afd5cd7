"""The project's errors, one small tree.

    DistilleryError          bad input; the message is one line: what is wrong and what to do about it
    ├── RecipeError          a recipe, a template or an override
    ├── TeacherError         a diffusion model that cannot be loaded or cannot do what is asked
    ├── DatasetError         a dataset folder that is missing, foreign or broken
    ├── ImageInputError      an image that cannot be edited
    ├── TrainingError        a training that cannot start, continue or resume
    ├── ExportError          a student that cannot be exported, or whose export fails parity
    ├── RunError             a run folder that does not fit the recipe
    └── FileError            a file that cannot be written, or is damaged

`inference.runtime` and `synth.images.reader` are copied out of the project: their errors derive from ValueError.
"""

import difflib
import functools
import sys
from collections.abc import Callable, Iterable

_MAX_COMPARED = 80  # characters of an unknown name: difflib takes quadratic time


class DistilleryError(Exception):
    """Root of the errors that a user can fix: the command prints the message in one line and exits with 2."""


class RecipeError(DistilleryError):
    """A recipe, a template or an override is wrong."""


class TeacherError(DistilleryError):
    """The teacher cannot be loaded, or cannot do what is asked of it."""


class DatasetError(DistilleryError):
    """A dataset folder is missing, is broken, or belongs to another recipe."""


class ImageInputError(DistilleryError):
    """An image cannot be edited as asked."""


class TrainingError(DistilleryError):
    """A training cannot start, continue or resume."""


class ExportError(DistilleryError):
    """A student cannot be exported, or its export disagrees with PyTorch."""


class RunError(DistilleryError):
    """A run folder does not fit the recipe of the run."""


class FileError(DistilleryError):
    """A file cannot be written, or is damaged."""


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Let a script's `main` end on an error that the user can fix with one line and exit code 2.

    `distillery` itself has it in `flows.cli`.
    """

    @functools.wraps(main)
    def run() -> None:
        try:
            main()
        except DistilleryError as error:
            print(f"error: {printable(error)}", file=sys.stderr)
            sys.exit(2)

    return run


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty, or else the name of its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def os_reason(error: OSError) -> str:
    """Return the reason of a failed file operation in one line, without the number and path of `str(error)`."""
    return " ".join((error.strerror or str(error)).split()) or type(error).__name__


def printable(text: object) -> str:
    """Text from outside as a terminal may show it: what a terminal would obey is escaped, a newline as `\\n`."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known name, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:_MAX_COMPARED], names, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"
