"""Captions as people keep them: in which column, in which encoding, one or several, with what nobody sees in them."""

import codecs
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from synth.errors import DatasetError

_COLUMNS = "text caption captions prompt prompts description sentence sentences txt json"
"""Where captions are looked for without --caption-column, whatever the case; the first that holds one counts."""

MAX_CAPTION = 10_000
"""Characters. A teacher reads a few hundred; a longer text is something else."""

_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\ufeff\ud800-\udfff\s]+")
_MARKS = (
    # UTF-32's mark begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def cleaned(text: str) -> str:
    """Return a caption in one line and in Unicode's form NFC, without control characters or lone surrogates.

    NFC, so that the words of an edit are found whichever way an accent was typed.
    """
    return unicodedata.normalize("NFC", _UNSEEN.sub(" ", text)).strip()


def caption_of(value: object) -> str:
    """Return the caption in a value: of a text itself, of a list its first caption; else "".

    Numbers are labels, not captions.
    """
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, list | tuple):
        return next((caption for item in value if (caption := caption_of(item))), "")
    return ""


def caption_in(row: Mapping[str, Any], wanted: str | None) -> str:
    """Return the caption of a row of a table or a JSON object.

    Args:
        row: column -> value.
        wanted: the column of captions (default: the first of _COLUMNS that holds one).
    """
    for column in caption_columns(row, wanted):
        value = row[column]
        caption = caption_in(value, None) if isinstance(value, Mapping) else caption_of(value)
        if caption:
            return caption
    return ""


def caption_columns(columns: Iterable[str], wanted: str | None) -> list[str]:
    """Return the columns that may hold captions, the likeliest first."""
    if wanted is not None:
        return [column for column in columns if column == wanted]
    named = [(column.casefold(), column) for column in columns if isinstance(column, str)]
    return [column for known in _COLUMNS.split() for folded, column in named if folded == known]


def require_column(place: object, columns: Iterable[str], wanted: str | None) -> None:
    """Check that a column which the user named exists.

    Raises:
        DatasetError: if it does not.
    """
    there = list(dict.fromkeys(columns))
    if wanted is not None and wanted not in there:
        raise DatasetError(f"{place} has no column {wanted!r} of captions; it has {', '.join(there) or 'none'}")


def first_line_of(text: str) -> str:
    """Return the caption in a text file beside an image: its first line that is not blank."""
    return next((line for part in text.splitlines() if (line := cleaned(part))), "")


def decoded(content: bytes) -> tuple[str, bool]:
    """Decode a text file, and return whether its encoding was certain.

    UTF-8, or what a byte-order mark names; UTF-16 without a mark is known by its zeros. Anything else is taken for
    Windows-1252, of which every byte is a letter.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding, "replace"), True
    zeros = [content[start::2].count(0) for start in (0, 1)]
    # ASCII in UTF-16 has a zero in every other byte.
    if len(content) >= 4 and min(zeros) == 0 and max(zeros) > len(content) // 3:
        return content.decode("utf-16-be" if zeros[0] > zeros[1] else "utf-16-le", "replace"), True
    try:
        return content.decode("utf-8"), True
    except UnicodeDecodeError:
        return "".join(bytes((byte,)).decode("cp1252", "ignore") or chr(byte) for byte in content), False
