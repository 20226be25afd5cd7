"""The command `distillery`: one module a verb, each a thin layer that imports what is heavy inside its function."""

import errno
import io
import sys
import warnings
from typing import Any

import click

from flows.cli.make.compress import compress
from flows.cli.make.distill import distill
from flows.cli.make.export import export
from flows.cli.make.import_photos import import_photos
from flows.cli.make.init import init
from flows.cli.make.page import page
from flows.cli.make.preview import preview
from flows.cli.make.publish import publish
from flows.cli.make.run import run
from flows.cli.make.synthesize import synthesize
from flows.cli.measure.evaluate import evaluate
from flows.cli.measure.study import study
from flows.cli.results import print_error
from flows.cli.terminal import prepare_terminal
from flows.cli.use.doctor import doctor
from flows.cli.use.edit import edit
from flows.cli.use.inspect import inspect
from flows.cli.use.serve import serve
from flows.cli.use.translate import translate
from synth.errors import DistilleryError, os_reason

# The packages that each extra installs, to name the extra when one of them is missing.
_PIPELINE = {
    *("torch", "diffusers", "transformers", "accelerate", "huggingface_hub", "safetensors", "onnx", "onnxscript"),
    *(
        "pyarrow",
        "datasets",
        "prefect",
        "skimage",
        "filelock",
        "fsspec",
        "httpx",
        "imagehash",
        "jinja2",
        "matplotlib",
    ),
    *("sqlalchemy", "tomli_w"),
}
_BASE = {"numpy", "packaging", "PIL", "psutil", "pydantic", "tqdm"}
_SERVE = {"fastapi", "starlette", "uvicorn", "python_multipart"}


_OF_THE_DISK = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE),
}


class _OneLineErrors(click.Group):
    """Ends on an error that the user can fix with one line and exit code 2; other errors keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
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


def _fail(message: str) -> None:
    print_error(message)
    sys.exit(2)


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dds-distillery")
def main() -> None:
    """Describe an edit in words and get a small network that makes it in one pass.

    \b
    distillery run demo --out runs/demo
    distillery translate runs/demo/model.onnx room.png --edit red-leather --out edited
    """
    # Pillow warns of each odd tag of a photograph; what matters of it becomes an error or a note.
    warnings.filterwarnings("ignore", module="PIL")
    # Consoles of Windows, and pipes there, lack most letters: a name must not end the command.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


_MAKE = (init, preview, run, synthesize, import_photos, distill, compress, export, page, publish)
_USE = (translate, inspect, serve, edit, doctor)
_MEASURE = (study, evaluate)
for verb in (*_MAKE, *_USE, *_MEASURE):
    main.add_command(verb)
