"""The command `distillery`: one module a verb, each a thin layer that imports what is heavy inside its function."""

import io
import sys
import warnings

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
from flows.cli.use.doctor import doctor
from flows.cli.use.edit import edit
from flows.cli.use.inspect import inspect
from flows.cli.use.serve import serve
from flows.cli.use.translate import translate
from flows.command_line import OneLineErrors


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
