"""What several verbs print. All text goes out escaped: names and metadata may come from other people's files."""

from pathlib import Path

import click

from synth.errors import printable


def print_line(text: object, err: bool = False) -> None:
    """Print one line, to stderr if `err`."""
    click.echo(printable(text), err=err)


def print_text(text: str) -> None:
    """Print text of several lines."""
    for line in text.split("\n"):
        print_line(line)


def print_error(message: str) -> None:
    """Print an error in one line to stderr."""
    print_line(f"error: {' '.join(message.split())}", err=True)


def print_results(out: Path) -> None:
    """Print the metrics of the run in `out`, and where its grid, report and model file are."""
    from flows.reports.tables import text_table
    from flows.run.folder import RunFolder

    folder = RunFolder(out)
    if (evaluation := folder.read_evaluation()) is not None:
        print_text(f"\n{text_table(evaluation)}\n")
    for name, path in (("grid", folder.grid), ("report", folder.report), ("model", folder.model)):
        if path.exists():
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
