"""The command `distillery`: one module a verb, each a thin layer that imports what is heavy inside its function."""

import sys
from typing import Any

import click

from flows.cli.make.distill import distill
from flows.cli.make.export import export
from flows.cli.make.import_photos import import_photos
from flows.cli.make.init import init
from flows.cli.make.preview import preview
from flows.cli.make.publish import publish
from flows.cli.make.run import run
from flows.cli.make.synthesize import synthesize
from flows.cli.measure.evaluate import evaluate
from flows.cli.measure.study import study
from flows.cli.results import print_error
from flows.cli.terminal import prepare_terminal
from flows.cli.use.edit import edit
from flows.cli.use.inspect import inspect
from flows.cli.use.serve import serve
from flows.cli.use.translate import translate
from synth.errors import DistilleryError

# The packages that each extra installs, to name the extra when one of them is missing.
_PIPELINE = {
    *("torch", "diffusers", "transformers", "accelerate", "huggingface_hub", "safetensors", "onnx", "onnxscript"),
    *("pyarrow", "datasets", "prefect", "skimage"),
}
_SERVE = {"fastapi", "starlette", "uvicorn", "python_multipart"}


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
            if package not in _PIPELINE | _SERVE:
                raise
            extra = "serve" if package in _SERVE else "pipeline"
            _fail(f'this needs more than the base install ({error.name}): pip install "dds-distillery[{extra}]"')
        except ValueError as error:
            # The runtime imports nothing of the project, so its errors have a root of their own.
            runtime = sys.modules.get("inference.runtime")
            if runtime is None or not isinstance(error, runtime.TranslatorError):
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


_MAKE = (init, preview, run, synthesize, import_photos, distill, export, publish)
_USE = (translate, inspect, serve, edit)
_MEASURE = (study, evaluate)
for verb in (*_MAKE, *_USE, *_MEASURE):
    main.add_command(verb)
