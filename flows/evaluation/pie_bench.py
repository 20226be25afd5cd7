"""Run PIE-Bench: methods edit its images, models judge them, and a table shows what its papers' tables show.

The edited images are kept apart from the metrics, so that another judge asks for no new edits:

    edited/pieces/    a few images of one method each, as PNG, with their seconds
    pieces/           the metrics of each
    rows.parquet      all metrics, a row an image and method
    table.md, sheet.png
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from flows.config.naming import digest
from flows.evaluation.contenders import Contender
from flows.evaluation.pieces import Pieces, write_rows
from synth.errors import RunError
from synth.files import write_bytes, write_text

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from PIL import Image

    from distill.pie_bench.cases import PieCase
    from distill.pie_bench.metrics import JudgeNames
    from distill.studies.study import Row, Unit

_BATCH = 4  # images that are edited together; they share a piece
_CELL = 160  # px, on the sheet
_OF_EDITS = digest("pie-bench edits")


def run_pie_bench(
    cases: "Sequence[PieCase]", methods: Sequence[Contender], judge_names: "JudgeNames", out: Path
) -> "list[Row]":
    """Edit what is not edited yet, measure what is not measured yet, and write rows, table and sheet into `out`.

    Returns:
        A row for each case that a method takes: method, category, key, seconds and the metrics.

    Raises:
        RunError: if something else is in `out`, or a method takes no case.
        DistilleryError: if an edit fails.
    """
    from distill.pie_bench.metrics import Judges

    for method in methods:
        if not any(map(method.takes, cases)):
            raise RunError(
                f"{method.name} takes none of the {len(cases)} images: no editing prompt has the words of one of its "
                "edits in brackets"
            )
        method.check(cases)
    judges = Judges(judge_names)  # a wrong model or image is refused before any image is edited
    for case in tqdm(cases, desc="reading", unit="image"):
        case.example()
    edited = Pieces(out / "edited" / "pieces", _OF_EDITS)
    pieces = Pieces(out / "pieces", digest("pie-bench"), results=("rows.parquet", "table.md", "sheet.png"))
    units = list(_units(cases, methods))
    first_keys = {next(group).key for _, group in groupby(cases, key=lambda case: case.category)}
    measured: list[pa.Table] = []
    shown: dict[tuple[str, str], bytes] = {}
    bar = tqdm(total=sum(len(batch) for _, batch, _ in units), desc="PIE-Bench", unit="edit")
    for method, batch, unit in units:
        images = edited.measured(unit, partial(_edit, method, batch)).to_pylist()
        measured.append(
            pieces.measured(
                {**unit, "judges": asdict(judge_names)},
                partial(_judge, judges, batch, images),
            )
        )
        shown |= {(row["method"], row["key"]): row["png"] for row in images if row["key"] in first_keys}
        bar.update(len(batch))
    bar.close()
    rows = write_rows(out / "rows.parquet", measured)
    write_text(out / "table.md", f"{tables(rows)}\n")
    write_bytes(out / "sheet.png", _sheet(cases, [method.name for method in methods], shown))
    return rows


def edited_images(
    cases: "Sequence[PieCase]", methods: Sequence[Contender], out: Path
) -> "Iterator[tuple[Contender, PieCase, NDArray[np.uint8]]]":
    """Read the edited images, uint8 (512, 512, 3), that `run_pie_bench` keeps in `out`; missing ones are made."""
    import numpy as np

    from synth.images.encoding import decode_rgb

    edited = Pieces(out / "edited" / "pieces", _OF_EDITS)
    for method, batch, unit in _units(cases, methods):
        rows = edited.measured(unit, partial(_edit, method, batch)).to_pylist()
        for case, row in zip(batch, rows, strict=True):
            yield method, case, np.asarray(decode_rgb(row["png"]))


def tables(rows: "Sequence[Row]") -> str:
    """Format the means as Markdown: all images first, then each category. Images without a value are left out."""
    from distill.pie_bench.cases import CATEGORIES

    parts = ["All images", "", _table(rows)]
    for place, category in enumerate(CATEGORIES):
        if chosen := [row for row in rows if row["category"] == category]:
            parts += ["", f"{place}. {category}", "", _table(chosen)]
    return "\n".join(parts)


def _table(rows: "Sequence[Row]") -> str:
    from distill.pie_bench.metrics import KEPT, PUBLISHED
    from distill.studies.rows import mean

    columns = {**PUBLISHED, **KEPT}
    header = ["method", "images", *(title for title, _ in columns.values()), "s an image"]
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    for name in dict.fromkeys(row["method"] for row in rows):
        values = [factor * mean(rows, metric, method=name) for metric, (_, factor) in columns.items()]
        cells = ["" if value != value else f"{value:.2f}" for value in values]
        num = sum(row["method"] == name for row in rows)
        seconds = f"{mean(rows, 'seconds', method=name):.2f}"
        lines.append(f"| {' | '.join([name, str(num), *cells, seconds])} |")
    return "\n".join(lines)


def _units(
    cases: "Sequence[PieCase]", methods: Sequence[Contender]
) -> "Iterator[tuple[Contender, list[PieCase], Unit]]":
    """Each method's images in batches that no category shares, so that a run of some categories serves one of all."""
    for method in methods:
        taken = (case for case in cases if method.takes(case))
        for _, group in groupby(taken, key=lambda case: case.category):
            members = list(group)
            for start in range(0, len(members), _BATCH):
                batch = members[start : start + _BATCH]
                content = [[case.key, case.fingerprint] for case in batch]
                yield method, batch, {"method": method.name, "identity": method.identity, "cases": content}


def _edit(method: Contender, batch: "Sequence[PieCase]") -> "list[Row]":
    from PIL import Image

    from synth.images.encoding import png_bytes

    started = perf_counter()
    images = method.edit(batch)
    seconds = (perf_counter() - started) / len(batch)
    return [
        {"method": method.name, "key": case.key, "seconds": seconds, "png": png_bytes(Image.fromarray(image))}
        for case, image in zip(batch, images, strict=True)
    ]


def _judge(judges: Any, batch: "Sequence[PieCase]", edited: "Sequence[Row]") -> "list[Row]":
    import numpy as np

    from distill.pie_bench.cases import CATEGORIES
    from synth.images.encoding import decode_rgb

    return [
        {
            **{key: row[key] for key in ("method", "key", "seconds")},
            "category": CATEGORIES[case.category],
            **judges.measure(case.example(), np.asarray(decode_rgb(row["png"]))),
        }
        for case, row in zip(batch, edited, strict=True)
    ]


def _sheet(cases: "Sequence[PieCase]", methods: Sequence[str], shown: Mapping[tuple[str, str], bytes]) -> bytes:
    """The first case of each category, before and after each method, as PNG."""
    from distill.evaluation.grids import GridRow, labelled_grid
    from synth.images.encoding import decode_rgb, png_bytes

    def small(image: "Image.Image") -> "Image.Image":
        return image.resize((_CELL, _CELL))

    rows = []
    for _, group in groupby(cases, key=lambda case: case.category):
        case = next(group)
        cells = [shown.get((name, case.key)) for name in methods]
        images = [small(decode_rgb(png)) if png is not None else None for png in cells]
        rows.append(GridRow(case.prompt, [small(case.example().pil_image), *images]))
    return png_bytes(labelled_grid(["input", *methods], rows))
