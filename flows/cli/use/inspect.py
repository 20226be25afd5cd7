"""`distillery inspect`: what a model file says about itself."""

import json
from collections.abc import Iterator
from typing import Any

import click

from flows.cli.results import print_line


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print all metadata as one JSON object.")
def inspect(model: str, as_json: bool) -> None:
    """Show what MODEL is: its edits, its teacher and licence, what it was measured on. Needs no torch.

    \b
    distillery inspect runs/demo/model.onnx
    distillery inspect hf://owner/name --json
    """
    from inference.pointer import resolved
    from inference.runtime import Translator

    metadata = dict(Translator.load(resolved(model), ["cpu"]).metadata)
    if as_json:
        # JSON in ASCII escapes what a terminal would obey, and stays JSON.
        click.echo(json.dumps(metadata, indent=2))
        return
    print_line("edits")
    for name, prompt in metadata.pop("edits").items():
        print_line(f"  {name}: {prompt}")
    print_line(f"network: {metadata.get('network', 'student')}")
    method = "pixel network" if str(metadata.pop("network", "")).startswith("pixel network") else "student"
    for line in _metrics_lines(metadata.pop("metrics", {}), method):
        print_line(line)
    for key, value in metadata.items():
        if isinstance(value, str | int | float):
            print_line(f"{key}: {value}")
        else:
            print_line(f"{key}: {len(value or ())} entries, which --json prints")


def _metrics_lines(metrics: Any, method: str) -> Iterator[str]:
    """A line for each row that was measured on what the file holds; one line for a table in another form."""
    try:
        for row in metrics.get("means", []):
            if row["method"] == method:
                right = f"{row['right']:.0%} right" if row.get("right") is not None else "not read"
                yield f"{row['scenes']} scenes, unseen: {right}, PSNR to the truth {row['psnr_all']:.1f} dB"
    except (AttributeError, KeyError, TypeError, ValueError):
        yield "metrics: not in a form that this version reads; --json prints them"
