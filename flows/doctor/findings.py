"""What a check has found: a name, a value and how bad it is; and a check that itself fails is a finding, too."""

import os
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from synth.errors import first_line

_LINE_WIDTH, _MIN_VALUE_WIDTH = 110, 40


class Level(Enum):
    """How bad a finding is, and its mark on the page."""

    OK = " "
    NOTE = "!"
    """Nothing fails for it, but it explains much: a GPU that is not used, packages that the lock does not have."""
    BROKEN = "x"
    """Some verb fails for it; the command ends with code 2."""


@dataclass(frozen=True)
class Finding:
    """One line of the page."""

    name: str
    value: str
    level: Level = Level.OK

    def as_json(self) -> dict[str, str]:
        """For `--json`."""
        return {"name": self.name, "value": self.value, "level": self.level.name.lower()}


@dataclass(frozen=True)
class Section:
    """Lines under one title."""

    title: str
    findings: tuple[Finding, ...]


Check = Callable[[], Iterable[Finding]]


def section(title: str, *checks: Check) -> Section:
    """Run checks one after the other; one that fails leaves a broken finding, and the others go on."""
    return Section(title, tuple(finding for check in checks for finding in _safely(check)))


def _safely(check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except (Exception, SystemExit) as error:  # whatever is broken here, the rest of the page is wanted all the more
        name = check.__name__.replace("_", " ")
        yield Finding(name, f"cannot be looked at: {type(error).__name__}: {first_line(error)}", Level.BROKEN)


def broken(sections: Iterable[Section]) -> list[str]:
    """One line for each thing that is broken, the same thing once."""
    lines = [
        f"{finding.name}: {finding.value}"
        for section in sections
        for finding in section.findings
        if finding.level is Level.BROKEN
    ]
    return list(dict.fromkeys(lines))


def lines(section: Section) -> Iterator[str]:
    """The lines of a section: a mark, a name and a value, which long ones continue below."""
    yield section.title
    width = max(len(finding.name) for finding in section.findings)
    for finding in section.findings:
        start = f"{finding.level.value} {finding.name:{width}}  "
        yield from textwrap.wrap(
            finding.value,
            max(_LINE_WIDTH, len(start) + _MIN_VALUE_WIDTH),
            initial_indent=start,
            subsequent_indent=" " * len(start),
            break_long_words=False,
            break_on_hyphens=False,
        ) or [start.rstrip()]


def short(path: str | Path) -> str:
    """A path without the name of the user: people paste the page where everybody reads it."""
    home = os.path.expanduser("~")
    text = str(path)
    return f"~{text[len(home) :]}" if home not in ("", "/", "~") and _is_below(text, home) else text


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def gigabytes(num_bytes: float) -> str:
    """Bytes as people read them: 12.3 GB."""
    return f"{num_bytes / 1e9:.1f} GB"
