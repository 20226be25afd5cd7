"""The tree is what the docs say: arrows between packages run one way, no circles, small modules, small folders."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("synth", "distill", "inference", "flows")
"""From the bottom up: each imports only those before it."""
FLOORS = (
    {"flows.config", "flows.command_line"},
    {"flows.shared_teacher", "flows.run", "flows.orchestration"},
    {"flows.evaluation"},
    {"flows.training"},
    {"flows.reports"},
    {"flows.doctor", "flows.planning", "flows.stages", "flows.publish", "flows.page", "flows.viewable"},
    {"flows.cli"},
)
"""Inside flows, from the bottom up; what shares a floor may import each other, without circles."""
KNOW_PREFECT = {"flows.orchestration", "flows.stages"}
MAX_LINES, MAX_MODULES, MAX_TEST_NAME = 300, 14, 60
MAY_BE_LONG = {"inference/runtime.py", "synth/images/reader.py", "synth/world/plants.py", "synth/world/portraits.py"}


def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """The project's modules that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` imports the module, `from module import name` the module before it
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [whole if whole in MODULES else node.module for whole in below]
        yield from (found for found in names if found in MODULES and found != name)


GRAPH = {name: set(imports(name)) for name in MODULES}


def floor(name: str) -> int:
    return next(n for n, floors in enumerate(FLOORS) if any(name == f or name.startswith(f"{f}.") for f in floors))


def test_the_whole_project_has_no_import_circle() -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in sorted(GRAPH[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in sorted(GRAPH):
        visit(name, ())


def test_packages_import_only_those_below() -> None:
    for name, others in GRAPH.items():
        for other in others:
            above, below = (PACKAGES.index(module.partition(".")[0]) for module in (name, other))
            assert below <= above, f"{name} imports {other}"


def test_inside_flows_imports_run_down() -> None:
    for name, others in GRAPH.items():
        for other in others:
            if name.startswith("flows.") and other.startswith("flows."):
                assert floor(other) <= floor(name), f"{name} imports {other}"


def test_prefect_is_known_in_two_packages_alone() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(module.partition(".")[0] in ("prefect", "prefect_ray") for module in names):
                assert any(name.startswith(package) for package in KNOW_PREFECT), name


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "benchmarks"])
def test_modules_and_folders_stay_small(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        lines = len(path.read_text().splitlines())
        name = path.relative_to(ROOT).as_posix()
        assert folder == "tests" or lines <= MAX_LINES or name in MAY_BE_LONG, f"{name} has {lines} lines"
    if folder in PACKAGES:
        for place in [ROOT / folder, *(path for path in (ROOT / folder).rglob("*") if path.is_dir())]:
            count = sum(path.name != "__init__.py" for path in place.glob("*.py"))
            assert count <= MAX_MODULES, f"{place.relative_to(ROOT)} has {count} modules"


def test_names_of_tests_are_short() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert len(node.name) < MAX_TEST_NAME, f"{path.relative_to(ROOT)}: {node.name}"


def test_no_test_imports_a_test_or_a_benchmark() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                first = node.module.partition(".")[0]
                assert not first.startswith("test_") and first not in ("benchmarks", "conftest"), path
