"""The rows of evaluation.json as tables: text for the terminal, Markdown, and cells for HTML."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from synth.markdown import Markdown, one_line, table

_NUM_TEXT = 3  # columns: edit, scenes, method
_COLUMNS = {
    "factor right": ("right", "{:.0%}"),
    "PSNR": ("psnr_all", "{:.1f}"),
    "inside": ("psnr_inside", "{:.1f}"),
    "outside": ("psnr_outside", "{:.1f}"),
    "outside to input": ("psnr_outside_to_input", "{:.1f}"),
    "SSIM": ("ssim_all", "{:.3f}"),
    "SSIM inside": ("ssim_inside", "{:.3f}"),
    "SSIM outside": ("ssim_outside", "{:.3f}"),
}


_OF_FILES = ("factor right", "PSNR", "inside", "outside to input", "SSIM")
"""The columns by which two model files are compared."""


def text_table(evaluation: Mapping[str, Any]) -> str:
    """The metrics for a terminal: the student's on each edit, then all means."""
    # The names may come from somebody else's run folder: no escape sequence reaches the terminal.
    header, *rows = [[one_line(cell) for cell in row] for row in table_cells(evaluation, short=True)]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column < _NUM_TEXT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def markdown_table(evaluation: Mapping[str, Any]) -> Markdown:
    """All rows as Markdown."""
    header, *rows = table_cells(evaluation, short=False)
    return table(header, rows, _NUM_TEXT)


def file_cells(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """What each measured model file is worth, side by side: quality, speed, size; none in older evaluations."""
    means = {row["method"]: row for row in evaluation["means"] if row["scenes"] == "edited"}
    return [
        {
            "file": facts["file"],
            "network": facts["method"],
            **{name: cell for name, cell in _named(means[facts["method"]]) if name in _OF_FILES},
            "sharpness inside": _cell(means[facts["method"]]["sharpness_inside"], "{:.2f}"),
            "an image, one thread": f"{facts['milliseconds']:.1f} ms",
            "size": f"{facts['mebibytes']:.1f} MiB",
        }
        for facts in evaluation.get("files", [])
    ]


def scenes_of(evaluation: Mapping[str, Any]) -> str:
    """Which scenes were measured, in one phrase."""
    given = ", ".join(f"{factor} {value}" for factor, value in evaluation["given"].items())
    whose = f", given {given}" if given else ""
    return f"{evaluation['num_scenes']} unseen drawn scenes of the {evaluation['split']} split{whose}"


def table_cells(evaluation: Mapping[str, Any], short: bool) -> list[list[str]]:
    """The header and the rows; `short` leaves out other methods and no-op scenes on single edits."""
    rows = [
        row for row in evaluation["edits"] if not short or (row["method"] == "student" and row["scenes"] == "edited")
    ]
    return [
        ["edit", "scenes", "method", *_COLUMNS],
        *([row["edit"], row["scenes"], row["method"], *_metrics(row)] for row in [*rows, *evaluation["means"]]),
    ]


def _metrics(row: Mapping[str, Any]) -> Iterator[str]:
    return (cell for _, cell in _named(row))


def _named(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The cells of a row of metrics, each with its column's name."""
    for column, (name, form) in _COLUMNS.items():
        yield column, _cell(row[name], form)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
