"""The command `distillery`: thin verbs, which import heavy libraries only when they run."""

import sys
from typing import Any

import click

from flows.cli import apply, begin, make, measure, share
from synth.errors import DistilleryError

_PIPELINE = {
    *("torch", "diffusers", "transformers", "accelerate", "huggingface_hub", "safetensors", "onnx", "onnxscript"),
    *("pyarrow", "datasets", "prefect", "skimage"),
}
_SERVE = {"fastapi", "starlette", "uvicorn", "python_multipart"}


class _OneLineErrors(click.Group):
    """Errors that a person can mend end in one line and exit code 2; all others keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
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
            runtime = sys.modules.get("inference.runtime")  # stands alone, and so do its errors
            if runtime is None or not isinstance(error, runtime.TranslatorError):
                raise
            _fail(str(error))


def _fail(message: str) -> None:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(2)


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dds-distillery")
def main() -> None:
    """Describe an edit in words, get back a small network that makes it in one pass.

    \b
    distillery run demo --out runs/demo
    distillery translate runs/demo/model.onnx room.png --edit red-leather --out edited
    """


for verb in (*begin.VERBS, *make.VERBS, *apply.VERBS, *measure.VERBS, *share.VERBS):
    main.add_command(verb)
