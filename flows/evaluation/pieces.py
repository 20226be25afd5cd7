"""Long measurements piece by piece: each a Parquet file of rows, so that one that was killed resumes."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from flows.config.naming import digest
from synth.errors import RunError
from synth.files import make_folder, whole_file, write_bytes
from synth.state import reading

if TYPE_CHECKING:
    import pyarrow as pa

    from distill.studies.study import Row, Unit

_ROWS_DIGEST = b"distillery"
"""The key of a piece's own digest, in its schema's metadata."""


class Pieces:
    """A folder of pieces, each recognized by its unit."""

    def __init__(self, folder: Path, owner: str, results: Sequence[str] = ()) -> None:
        """Make the folder, or find that it is `owner`'s.

        Args:
            folder: of the pieces.
            owner: a fingerprint, 16 hexadecimal digits.
            results: files beside the folder that will be written, and so must not be there before it.

        Raises:
            RunError: if the folder is another owner's, or results are there that no study wrote.
        """
        self._folder = folder
        self._num_asked = 0
        _claim(folder, owner, results)

    def measured(self, unit: "Unit", measure: "Callable[[], list[Row]]") -> "pa.Table":
        """Read a unit's rows, and measure them first where they are missing.

        Raises:
            RunError: if the piece is damaged.
        """
        name = f"{digest(unit)[:8]}.parquet"
        # The number is for people who look at the folder: it moves when a unit is added before.
        file = next(self._folder.glob(f"*-{name}"), self._folder / f"{self._num_asked:03d}-{name}")
        self._num_asked += 1
        if not file.exists():
            _write_piece(file, measure())
        return _read_piece(file)


def write_rows(file: Path, pieces: "Iterable[pa.Table]") -> "list[Row]":
    """Write the rows of all pieces into one Parquet file, and return them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A piece whose values are all missing has a column without a type.
    rows = pa.concat_tables(pieces, promote_options="permissive")
    with whole_file(file) as temporary:
        pq.write_table(rows, temporary)
    listed: list[Row] = rows.to_pylist()
    return listed


def _claim(pieces: Path, fingerprint: str, results: Sequence[str]) -> None:
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
    for name in results:
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
