"""Makes the command's process fit to work in: standard streams, their encoding, and the working directory."""

import io
import os
import sys
from pathlib import Path

from synth.errors import FileError


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
