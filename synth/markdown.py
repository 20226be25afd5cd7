"""Text that came from elsewhere, inside Markdown: it shows as it is, and makes no tag, link, image or table column.

Names, prompts, templates, licences and reasons are free text. `escape` returns `Markdown`, which it leaves alone when
it meets it again, so that a piece is escaped exactly once.
"""

import json
import re
from collections.abc import Iterable, Sequence

# Each of them means something anywhere in a line: code, emphasis, links, tags, entities, columns, mathematics, mail.
_SPECIAL = re.compile(r"[\\`*\[\]<&|~$@]")
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # one inside a word means nothing: psnr_all
# GitHub makes a link of a bare address.
_BARE_LINK = re.compile(r"(?<=[A-Za-z0-9+.-]):(?=//)|(?<=\bwww)\.|(?<=\bmailto):|(?<=\bxmpp):", re.IGNORECASE)
# Lists, rules, headings, quotes and a table's second line are known by how a line begins.
_BLOCK_START = re.compile(r"^(?=[-+=#>:])")
_LIST_NUMBER = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
# What shows nothing, breaks lines, turns the direction of writing or cannot be encoded.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def one_line(text: object) -> str:
    """The text without control characters and line breaks, for a terminal as for Markdown."""
    return " ".join(_CONTROL.sub(" ", str(text)).split())


def escape(text: object) -> Markdown:
    """One line of Markdown that shows the text itself.

    >>> escape("a | b <script>")
    'a \\\\| b \\\\<script>'
    """
    if isinstance(text, Markdown):
        return text
    line = _escape_inline(text)
    line = _BLOCK_START.sub(r"\\", line)
    return Markdown(_LIST_NUMBER.sub(r"\1\\\2", line))


def code(text: object) -> Markdown:
    """The text as a code span, or as plain text where it has what no code span in a table can show."""
    line = one_line(text)
    return Markdown(f"`{line}`") if line and not re.search(r"[`|\\]", line) else escape(text)


def python_string(text: str) -> Markdown:
    """The text as a Python string literal of one line, for an example inside a code fence."""
    literal = json.dumps(text, ensure_ascii=False)
    return Markdown(literal.encode(errors="backslashreplace").decode())  # lone surrogates


def table(header: Sequence[object], rows: Iterable[Sequence[object]], num_text: int | None = None) -> Markdown:
    """A table whose cells show their texts.

    Args:
        header: the columns' names.
        rows: as long as the header.
        num_text: how many columns are left-aligned, the others are numbers (default: all).
    """
    num_text = len(header) if num_text is None else num_text
    rule = "|---" * num_text + "|---:" * (len(header) - num_text) + "|"
    lines = [_row(header), rule]
    lines += [_row(row) for row in rows]
    return Markdown("\n".join(lines))


def _row(cells: Sequence[object]) -> str:
    shown = (cell if isinstance(cell, Markdown) else _escape_inline(cell) for cell in cells)
    return f"| {' | '.join(shown)} |"


def _escape_inline(text: object) -> str:
    line = _SPECIAL.sub(r"\\\g<0>", one_line(text))
    line = _UNDERSCORE.sub(r"\\_", line)
    return _BARE_LINK.sub(r"\\\g<0>", line)
