"""Run the paper's studies piece by piece: rows as Parquet, a plot and a finding."""

import os
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from distill.settings import EditSettings
from flows.config.naming import digest
from flows.evaluation.zero_shot import find_images
from synth.errors import RunError
from synth.files import make_folder, whole_file, write_bytes
from synth.state import reading

if TYPE_CHECKING:
    import pyarrow as pa

    from distill.studies.study import Row, Study
    from synth.teacher.teacher import Teacher


_ROWS_DIGEST = b"distillery"
"""The key of a piece's own digest, in its schema's metadata."""


def make_study(
    name: str,
    settings: EditSettings,
    num_scenes: int | None = None,
    images: tuple[Path, ...] = (),
    prompt: str = "",
    source_prompt: str = "",
    folder: Path | None = None,
    num_steps: int | None = None,
) -> "Study":
    """Make a study by its name.

    Args:
        name: the command's name for it.
        settings: for the zero-shot edits.
        num_scenes: drawn scenes per edit (default: the study's).
        images: files or folders, for real-images only.
        prompt: what the edited images should show.
        source_prompt: what the images show.
        folder: where the study ablations keeps the dataset that it paints.
        num_steps: the steps of each of translator's trainings (default: the study's).

    Raises:
        RunError: for real-images without images or prompt.
    """
    from distill.studies.ablations import Ablations
    from distill.studies.benchmark import Sweep
    from distill.studies.guidance_bias import GuidanceBias
    from distill.studies.leakage import Leakage
    from distill.studies.optimizer import Optimizer
    from distill.studies.real_images import RealImages
    from distill.studies.regularized_sds import RegularizedSDS
    from distill.studies.steps import Steps

    if name == "real-images":
        if not images or not prompt.strip():
            raise RunError("the study real-images edits your own images: name them, and give --prompt")
        return RealImages(settings, tuple(find_images(images)), prompt, source_prompt)
    scenes = {} if num_scenes is None else {"num_scenes": num_scenes}
    if name == "ablations":
        assert folder is not None, "it paints a dataset"
        return Ablations(folder, **scenes, **({} if num_steps is None else {"num_steps": num_steps}))
    if name == "guidance-bias":  # it optimises nothing
        return GuidanceBias(**scenes)
    if name == "sweep":  # it chooses the settings
        return Sweep(**scenes)
    of_edits: dict[str, Callable[..., Study]] = {
        "steps": Steps,
        "optimizer": Optimizer,
        "regularized-sds": RegularizedSDS,
        "leakage": Leakage,
    }
    return of_edits[name](settings, **scenes)


def run_study(study: "Study", teacher: "Teacher", out: Path) -> str:
    """Compute a study's missing pieces, then write `rows.parquet`, `plot.png` and `finding.txt` into `out`.

    Returns:
        The finding.

    Raises:
        RunError: if another study's pieces are in `out`, or damaged ones.
        DistilleryError: if an edit fails.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from synth.images.encoding import png_bytes

    teacher.require_scorer()
    pieces = out / "pieces"
    fingerprint = digest(teacher.fingerprint, study.name, repr(study))
    _claim(pieces, fingerprint)
    tables = []
    for place, unit in enumerate(tqdm(study.units(), desc=study.name, unit="piece")):
        file = pieces / f"{place:03d}-{digest(unit)[:8]}.parquet"
        if not file.exists():
            _write_piece(file, study.measure(teacher, unit))
        tables.append(_read_piece(file))
    # A piece whose values are all missing has a column without a type.
    rows = pa.concat_tables(tables, promote_options="permissive")
    with whole_file(out / "rows.parquet") as temporary:
        pq.write_table(rows, temporary)
    listed = rows.to_pylist()
    write_bytes(out / "plot.png", png_bytes(study.plot(listed)))
    finding = study.finding(listed)
    write_bytes(out / "finding.txt", f"{study.question}\n{finding}\n".encode())
    return finding


def _claim(pieces: Path, fingerprint: str) -> None:
    """Make the folder of a study's pieces this study's, or find that it is.

    Raises:
        RunError: if it is another study's, or results are there that no study wrote.
    """
    owner = pieces / "study.txt"
    if owner.exists():
        with reading(owner, RunError, "delete it if all pieces beside it are of this very study"):
            held = owner.read_bytes().decode("ascii")
            if not re.fullmatch("[0-9a-f]{16}", held):
                raise ValueError("it is not a study's fingerprint")
        if held != fingerprint:
            raise RunError(
                f"{pieces.parent} holds another study, or this study of another model, teacher or settings: "
                "choose another folder, or delete it"
            )
        return
    for name in ("rows.parquet", "plot.png", "finding.txt"):
        if os.path.lexists(pieces.parent / name):
            raise RunError(f"{pieces.parent / name} is there, and no study wrote it: choose another folder")
    make_folder(pieces)
    write_bytes(owner, fingerprint.encode())


def _write_piece(file: Path, rows: "list[Row]") -> None:
    """Write a piece's rows, with a digest of them: what plots and findings read of a row differs from study to study,
    so that only the digest can tell a piece from another table under its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows)
    table = table.replace_schema_metadata({_ROWS_DIGEST: _digest_of_rows(table)})
    with whole_file(file) as temporary:
        pq.write_table(table, temporary)


def _read_piece(file: Path) -> "pa.Table":
    """Read a piece.

    Raises:
        RunError: if it is damaged, or is not a piece of a study.
    """
    import pyarrow.parquet as pq

    with reading(file, RunError, "delete it, and it will be measured again"):
        table = pq.read_table(file)
        if (table.schema.metadata or {}).get(_ROWS_DIGEST) != _digest_of_rows(table):
            raise ValueError("its rows are not those that were measured")
    return table


def _digest_of_rows(table: "pa.Table") -> bytes:
    return sha256(repr(table.to_pylist()).encode()).hexdigest().encode()
