"""What several verbs print. All text goes out escaped: names and metadata may come from other people's files."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.command_line import print_error
from synth.errors import printable

if TYPE_CHECKING:
    from inference.media.translate import Outcome
    from inference.runtime import Translator


def print_line(text: object, err: bool = False) -> None:
    """Print one line, to stderr if `err`."""
    click.echo(printable(text), err=err)


def print_text(text: str) -> None:
    """Print text of several lines."""
    for line in text.split("\n"):
        print_line(line)


def network_of(translator: "Translator") -> str:
    """What a model file says that it holds, to be put behind a device; nothing of an older file, which does not."""
    network = translator.metadata.get("network")
    return f"; {network}" if isinstance(network, str) else ""


def print_outcome(outcome: "Outcome") -> None:
    """Print the results of a verb that makes images, and what went wrong; exit with 2 if anything did."""
    for path in outcome.files:
        print_line(path)
    for note in outcome.notes:
        print_line(f"note: {note}", err=True)
    if outcome.num_skipped:
        print_line(f"skipped: {outcome.num_skipped} results, made already", err=True)
    for problem in outcome.problems:
        print_error(problem)
    if outcome.problems:
        sys.exit(2)


def print_results(out: Path) -> None:
    """Print the metrics of the run in `out`, and where its grid, report and model file are."""
    from flows.reports.tables import text_table
    from flows.run.compressed import pixel_model
    from flows.run.folder import RunFolder

    folder = RunFolder(out)
    if (evaluation := folder.read_evaluation()) is not None:
        print_text(f"\n{text_table(evaluation)}\n")
    pixel = pixel_model(folder.load_recipe(), folder)
    found = (("grid", folder.grid), ("report", folder.report), ("model", folder.model), ("pixel", pixel))
    for name, path in found:
        if path is not None and path.exists():
            print_line(f"{name:7}{path}")


def print_times(out: Path) -> None:
    """Print what each stage of the run in `out` took, those of earlier runs in it included."""
    from flows.planning.forecast import table
    from flows.run.folder import RunFolder

    if seconds := RunFolder(out).seconds():
        print_text("\n".join(["", "what each stage took:", *table(seconds), ""]))


def print_study_files(out: Path) -> None:
    """Print where a study's plot and rows are."""
    print_line(f"plot  {out / 'plot.png'}")
    print_line(f"rows  {out / 'rows.parquet'}")
