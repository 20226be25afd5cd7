"""What every command line has: standard streams and a working directory that are fit, and errors in one line."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import click

from synth.errors import DistilleryError, FileError, os_reason, printable

# The packages that each extra installs, to name the extra when one of them is missing.
_PIPELINE = {
    *("torch", "diffusers", "transformers", "accelerate", "huggingface_hub", "safetensors", "onnx", "onnxscript"),
    *("pyarrow", "datasets", "prefect", "skimage", "filelock", "fsspec", "httpx", "imagehash", "jinja2"),
    *("matplotlib", "sqlalchemy", "tomli_w"),
}
_BASE = {"numpy", "packaging", "PIL", "psutil", "pydantic", "tqdm"}
_SERVE = {"fastapi", "starlette", "uvicorn", "python_multipart"}
_OF_THE_DISK = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE),
}


class OneLineErrors(click.Group):
    """Ends on an error that the user can fix with one line and exit code 2; other errors keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Prepare the process, and call the verb."""
        try:
            prepare_terminal()
            return super().invoke(ctx)
        except DistilleryError as error:
            _fail(str(error))
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in _BASE:
                _fail(f"the base install lacks {package}: install dds-distillery again, as the README says")
            if package not in _PIPELINE | _SERVE:
                raise
            extra = "serve" if package in _SERVE else "pipeline"
            _fail(f'this needs more than the base install ({error.name}): pip install "dds-distillery[{extra}]"')
        except OSError as error:
            # The project's writer says so itself; this is for what libraries write.
            if error.errno not in _OF_THE_DISK:
                raise
            _fail(f"{error.filename or 'a file'} cannot be read or written: {os_reason(error)}")
        except ValueError as error:
            # The runtime and its reader import nothing of the project, so their errors have roots of their own.
            roots = (("inference.runtime", "TranslatorError"), ("synth.images.reader", "ImageError"))
            if not any(isinstance(error, getattr(sys.modules.get(name), root, ())) for name, root in roots):
                raise
            _fail(str(error))


def print_error(message: str) -> None:
    """Print an error in one line to stderr; names and metadata in it may come from other people's files."""
    click.echo(printable(f"error: {' '.join(message.split())}"), err=True)


def _fail(message: str) -> None:
    print_error(message)
    sys.exit(2)


def prepare_terminal() -> None:
    """Prepare the process before any verb reads a path or prints a line.

    Raises:
        FileError: if the working directory was deleted.
    """
    _open_closed_streams()
    _speak_utf8()
    try:
        os.getcwd()
    except FileNotFoundError:
        raise FileError("the working directory was deleted: change to another one (`cd`) and try again") from None


def _open_closed_streams() -> None:
    """Open the standard streams that are closed (`>&-`) onto nothing.

    Otherwise the next file that is opened gets their number, and whatever is printed goes into that file.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # open to the end


def _speak_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding (`LANG=C`, `PYTHONUTF8=0`).

    Names of files, recipes and edits may have any letters. For the same reason Python 3.15 always uses this mode. A
    terminal's own encoding stays the environment's choice (PYTHONIOENCODING): what it lacks is escaped.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
