"""The README's tree is the tree, and its commands are there."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def tree() -> set[str]:
    """The folders that the README's tree names."""
    text = README.partition("## The tree")[2].partition("```\n")[2].partition("```")[0]
    named: set[str] = set()
    folders: list[str] = []
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], line.split()[0].rstrip("/")]
        assert len(line.split()) > 1, f"{line} has no words"
        named.add("/".join(folders))
    return named


def test_every_folder_has_a_line() -> None:
    named = tree()
    missing = {name for name in named if not (ROOT / name).is_dir()}
    assert not missing, f"the README names what is not there: {missing}"
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for package in ("flows", "inference", "distill", "synth")
        for path in (ROOT / package).rglob("__init__.py")
    }
    # A folder two deep has its line; what lies below is its own business.
    wanted = {"/".join(name.split("/")[:2]) for name in packages}
    assert not wanted - named, f"the README has no line for {sorted(wanted - named)}"


def test_its_commands_and_links_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for names in re.findall(r'"?\.?(?:dds-distillery)?\[([a-z0-9,]+)\]"', README):
        assert set(names.split(",")) <= set(extras), names
