"""`distillery doctor`: what matters for a report of a fault, or before a long run."""

import json
import sys

import click

from flows.cli.results import print_line
from flows.command_line import print_error


@click.command()
@click.argument("models", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the page as one JSON object.")
def doctor(models: tuple[str, ...], as_json: bool) -> None:
    """Look at this installation and machine, and open MODELS if any are named. Needs no torch and no network.

    Nothing is changed or started, and no password or token is shown: the page belongs in a report of a fault. The
    exit code is 2 if something is broken. A model is a file, NAME.latest.json, or hf://owner/name, which is fetched.

    \b
    distillery doctor
    distillery doctor runs/demo/model.onnx
    """
    from flows.doctor.examination import examine
    from flows.doctor.findings import Section, broken, lines

    sections: list[Section] = []
    for section in examine(models):  # printed as it comes: imports take seconds
        if not as_json:
            for line in ("", *lines(section)) if sections else lines(section):
                print_line(line)
        sections.append(section)
    if as_json:
        found = {each.title: [line.as_json() for line in each.findings] for each in sections}
        click.echo(json.dumps(found, indent=2))
    if wrong := broken(sections):
        for line in wrong:
            print_error(line)
        sys.exit(2)
