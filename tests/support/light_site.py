"""A folder of site-packages with the base install alone, of links to the packages that the tests run with."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def link_base_packages(folder: Path, *extras: str) -> Path:
    """Fill a folder with links to what `pip install ".[EXTRAS]"` installs, and the project's own metadata."""
    folder.mkdir()
    # Not from the installed metadata, which a change of pyproject.toml leaves behind.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(text for extra in extras for text in project["optional-dependencies"][extra]),
    ]
    waiting, done = ["dds-distillery", *(Requirement(text).name for text in asked)], set()
    while waiting:
        name = waiting.pop()
        if name.lower() in done:
            continue
        done.add(name.lower())
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
        needed = map(Requirement, distribution.requires or ())
        waiting += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return folder


def distillery(
    site: Path, *arguments: str, module: str = "flows.cli", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command, or the one of another module, with the packages of a folder and no others."""
    start = f"import sys; sys.path += [{str(ROOT)!r}, {str(site)!r}]; from {module} import main; main()"
    home = site.parent / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-S", "-c", start, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONUTF8": "1", **environment},
    )
