"""Writes the parts of docs/architecture.md that follow from the code: its picture and its line a module.

    python docs/draw_architecture.py

The picture shows the packages and who imports whom, drawn from the import statements; an arrow that follows from
others is left out. A module's line is the first sentence of its docstring. A test holds both to the code.
"""

import ast
import html
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "architecture.svg"
PACKAGES = ("flows", "inference", "distill", "synth")
COLORS = {"flows": "#dbe9f6", "inference": "#e3f3df", "distill": "#fdecd2", "synth": "#f3e0ee"}
BEGIN, END = "<!-- made by docs/draw_architecture.py -->\n", "<!-- end -->\n"
BOX, GAP, ROW = (128, 34), 18, 74  # px: width and height of a box, between boxes, between rows


def modules() -> dict[str, Path]:
    """Dotted name -> file, the packages' own `__init__` left out."""
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in paths if p.name != "__init__.py"}


def box_of(module: str) -> str:
    """The package, two names deep, that stands for a module in the picture."""
    names = module.split(".")
    return ".".join(names[:2]) if len(names) > 2 else names[0]


def arrows(files: Mapping[str, Path]) -> set[tuple[str, str]]:
    """Which box imports from which."""
    found = set()
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                named = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
            found |= {(box_of(name), box_of(other)) for other in named if other in files}
    return {(one, other) for one, other in found if one != other}


def reduced(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that do not follow from others."""
    below: dict[str, set[str]] = {}
    for one, other in edges:
        below.setdefault(one, set()).add(other)

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(below.get(start, ()))
        while todo:
            if (box := todo.pop()) not in seen:
                seen.add(box)
                todo += below.get(box, ())
        return seen

    return {(a, b) for a, b in edges if not any(b in reach(c) for c in below[a] - {b})}


def rows_of(edges: set[tuple[str, str]], boxes: Iterable[str]) -> dict[str, int]:
    """Each box's row, from the top: below all that import from it."""
    rows = dict.fromkeys(boxes, 0)
    for _ in rows:
        for one, other in edges:
            rows[other] = max(rows[other], rows[one] + 1)
    return rows


def picture(files: Mapping[str, Path]) -> str:
    """The packages and their arrows, as SVG."""
    edges = arrows(files)
    rows = rows_of(edges, sorted({box_of(name) for name in files}))
    width, height = BOX
    lines: dict[int, list[str]] = {}
    for box in sorted(rows, key=lambda name: (PACKAGES.index(name.split(".")[0]), name)):
        lines.setdefault(rows[box], []).append(box)
    total = max(len(line) for line in lines.values()) * (width + GAP) + GAP
    at = {}
    for row, line in lines.items():
        left = (total - len(line) * (width + GAP) + GAP) / 2
        at |= {box: (left + place * (width + GAP), GAP + row * ROW) for place, box in enumerate(line)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {GAP + len(lines) * ROW}" '
        'font-family="sans-serif" font-size="13">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#888"/></marker></defs>',
    ]
    for one, other in sorted(reduced(edges)):
        (x1, y1), (x2, y2) = at[one], at[other]
        bend = f"C{x1 + width / 2:.0f} {y1 + height + 22:.0f} {x2 + width / 2:.0f} {y2 - 22:.0f}"
        parts.append(
            f'<path d="M{x1 + width / 2:.0f} {y1 + height:.0f}{bend} {x2 + width / 2:.0f} {y2:.0f}" fill="none" '
            'stroke="#888" marker-end="url(#head)"/>'
        )
    for box, (x, y) in at.items():
        color = COLORS[box.split(".")[0]]
        parts.append(
            f'<rect x="{x:.0f}" y="{y}" width="{width}" height="{height}" rx="6" fill="{color}" stroke="#777"/>'
            f'<text x="{x + width / 2:.0f}" y="{y + height / 2 + 5:.0f}" text-anchor="middle">'
            f"{html.escape(box.replace('.', '/'))}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def summary(path: Path) -> str:
    """The first sentence of a file's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".:")


def listing(files: Mapping[str, Path]) -> str:
    """A table a folder, a line a module."""
    folders: dict[Path, list[Path]] = {}
    for path in files.values():
        folders.setdefault(path.parent, []).append(path)
    lines = []
    for folder, paths in sorted(
        folders.items(), key=lambda item: (PACKAGES.index(item[0].relative_to(ROOT).parts[0]), item[0])
    ):
        about = summary(folder / "__init__.py")
        lines += [
            f"### {folder.relative_to(ROOT).as_posix()}/",
            "",
            f"{about}.",
            "",
            "| module | what it is |",
            "|---|---|",
        ]
        lines += [f"| `{path.name}` | {summary(path).replace('|', chr(92) + '|')} |" for path in sorted(paths)]
        lines.append("")
    return "\n".join(lines)


def page(text: str, files: Mapping[str, Path]) -> str:
    """The page with its made part as the code is now."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{listing(files)}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Write both files."""
    files = modules()
    PICTURE.write_text(picture(files))
    PAGE.write_text(page(PAGE.read_text(), files))


if __name__ == "__main__":
    main()
