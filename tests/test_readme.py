"""The README's tree is the tree."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_module_has_a_line_and_every_line_its_file() -> None:
    tree = README.partition("## The tree")[2].partition("```\n")[2].partition("```")[0]
    named: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        columns = re.split(r"\s{2,}", line.strip())
        for word in columns[: -1 if len(columns) > 1 else None]:
            if word.endswith("/"):
                folders = [*folders[:depth], word]
                assert (ROOT / "".join(folders)).is_dir(), f"the README names {''.join(folders)}"
            else:
                named.add("".join(folders[:depth]) + word)
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing, f"the README names what is not there: {missing}"
    modules = {
        path.relative_to(ROOT).as_posix()
        for room in ("flows", "inference", "distill", "synth")
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert not modules - named, f"the README has no line for {sorted(modules - named)}"


def test_its_commands_are_the_makefile_s_and_its_links_lead_somewhere() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for names in re.findall(r'"?\.?(?:dds-distillery)?\[([a-z0-9,]+)\]"', README):
        assert set(names.split(",")) <= set(extras), names
