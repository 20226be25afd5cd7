"""`distillery page`: a run's model as a page for any web host."""

from pathlib import Path

import click

from flows.cli.options import OUT_FOLDER
from flows.cli.results import print_line
from flows.orchestration.environment import prepare


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=OUT_FOLDER, required=True, help="Write the page into this folder; an older page goes.")
def page(folder: Path, out: Path) -> None:
    """Write the model of the run in FOLDER as a web page that runs it: static files, no server of ours, no Python.

    `make web` in the project downloads onnxruntime-web first. `distillery publish --space` puts the page on the Hub.

    \b
    distillery page runs/sofas --out site
    """
    prepare()
    from flows.page import write_page

    write_page(folder, out)
    print_line(f"page  {out / 'index.html'}")
    print_line(f"look at it with: python -m http.server --bind 127.0.0.1 --directory {out}")
