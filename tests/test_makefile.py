"""make, with programs in pip's and uv's place that write down how they are called."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INDEX = "https://index.invalid/whl/cpu"
TORCH = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What make reads, and a virtual environment whose python writes its arguments into `calls`."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for program in ("python", "distillery"):
        recorder(tmp_path / ".venv" / "bin" / program, tmp_path, program)
    (tmp_path / "path").mkdir()
    return tmp_path


def recorder(path: Path, checkout: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'#!/bin/sh\nprintf "%s" {name} >> {checkout}/calls\n'
        f'for word in "$@"; do printf " %s" "$word" >> {checkout}/calls; done\necho >> {checkout}/calls\n'
    )
    path.chmod(0o755)


def make(checkout: Path, *arguments: str) -> tuple[str, list[str]]:
    """What make prints, and the programs that it calls."""
    (checkout / "calls").write_text("")
    path = f"{checkout / 'path'}:/usr/bin:/bin"
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "TORCH_INDEX", "ORT"))
    }
    ran = subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout, (checkout / "calls").read_text().splitlines()


def test_demo_says_the_size_and_installs_no_test_tools(checkout: Path) -> None:
    said, calls = make(checkout, "demo")
    assert calls == [
        "python -m pip install --constraint constraints.txt --editable .[pipeline,cpu]",
        "distillery run demo --out runs/demo",
    ]
    assert "GB on Linux" in said.partition("pip install")[0], "the size is said before the download"


def test_tests_add_the_rest_and_the_demo_then_needs_nothing(checkout: Path) -> None:
    make(checkout, "demo")
    _, calls = make(checkout, "test")
    assert calls[0] == "python -m pip install --constraint constraints.txt --editable .[pipeline,serve,dev,cpu]"
    assert calls[1].startswith("python -m pytest")
    assert make(checkout, "demo")[1] == ["distillery run demo --out runs/demo"]
    os.utime(checkout / "constraints.txt", (2**33, 2**33))
    assert "--editable .[pipeline,cpu]" in make(checkout, "demo")[1][0], "a new lock is installed"


def test_uv_installs_where_it_is_on_the_path(checkout: Path) -> None:
    recorder(checkout / "path" / "uv", checkout, "uv")
    assert make(checkout, "setup")[1] == [
        "uv pip install --python .venv/bin/python --constraint constraints.txt --editable .[pipeline,serve,dev,cpu]"
    ]
    shutil.rmtree(checkout / ".venv")
    made = make(checkout, "-n", "setup", "PYTHON=python3.13")[0]
    assert "uv venv --quiet --seed --python python3.13 .venv" in made


def test_without_uv_python_makes_the_environment(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    assert make(checkout, "-n", "setup")[0].startswith("python3 -m venv .venv\n")
    assert make(checkout, "-n", "setup", "PYTHON=python3.13")[0].startswith("python3.13 -m venv .venv\n")


def test_one_variable_chooses_the_build_of_torch(checkout: Path) -> None:
    _, calls = make(checkout, "setup", f"TORCH_INDEX={INDEX}")
    assert calls == [
        f"python -m pip install --no-deps --force-reinstall --index-url {INDEX} {TORCH}",
        "python -m pip install --constraint .venv/constraints.txt --editable .[pipeline,serve,dev,cpu]",
    ]
    whole = (checkout / "constraints.txt").read_text().splitlines()
    kept = (checkout / ".venv" / "constraints.txt").read_text().splitlines()
    left_out = sorted(set(whole) - set(kept))
    assert TORCH in kept and len(left_out) > 10
    assert all(line.startswith(("cuda-", "nvidia-", "triton==")) for line in left_out), "only what CUDA builds bring"
    assert make(checkout, "setup", f"TORCH_INDEX={INDEX}")[1] == [], "nothing is installed twice"
    other = make(checkout, "setup", "TORCH_INDEX=https://index.invalid/whl/cu128")[1]
    assert other[0].endswith(f"--index-url https://index.invalid/whl/cu128 {TORCH}")


def test_one_variable_chooses_the_build_of_onnx_runtime(checkout: Path) -> None:
    site = checkout / ".venv" / "lib" / "python3.12" / "site-packages"
    setup = "python -m pip install --constraint constraints.txt --editable .[pipeline,serve,dev,{}]"
    assert make(checkout, "setup")[1] == [setup.format("cpu")]
    (site / "onnxruntime-1.31.1.dist-info").mkdir(parents=True)
    make_room = "python -m pip uninstall --yes onnxruntime onnxruntime-gpu"
    assert make(checkout, "setup", "ORT=gpu")[1] == [make_room, setup.format("gpu")], "never both"
    (site / "onnxruntime-1.31.1.dist-info").rename(site / "onnxruntime_gpu-1.31.1.dist-info")
    assert make(checkout, "setup", "ORT=gpu")[1] == [], "nothing is installed twice"
    assert make(checkout, "demo", "ORT=gpu")[1] == ["distillery run demo --out runs/demo"]
    assert make(checkout, "setup")[1] == [make_room, setup.format("cpu")]


def test_an_unknown_build_of_onnx_runtime_is_refused(checkout: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        make(checkout, "setup", "ORT=cuda")
    assert "ORT is 'cuda': it is cpu or gpu" in failed.value.stderr


def test_the_image_chooses_torch_as_make_does() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert "grep -Ev '^(cuda|nvidia|triton)' constraints.txt" in dockerfile
    assert "grep -Ev '^(cuda|nvidia|triton)' constraints.txt" in makefile
    assert "ARG ORT=cpu" in dockerfile and '".[pipeline,s3,$ORT]"' in dockerfile
    assert '--no-deps --index-url "$TORCH_INDEX" "$(grep \'^torch==\' constraints.txt)"' in dockerfile


@pytest.mark.parametrize("upgrade", [False, True])
def test_make_lock_keeps_versions_unless_asked(checkout: Path, upgrade: bool) -> None:
    recorder(checkout / "path" / "uv", checkout, "uv")
    calls = make(checkout, "lock", *(["UPGRADE=1"] if upgrade else []))[1]
    assert calls == [f"uv run --quiet --script lock.py{' --upgrade' if upgrade else ''}"]


def test_lines_for_pip_take_the_lock() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        for line in page.read_text().splitlines():
            if "pip install" in line and (" -e " in line or "install ." in line):
                assert "-c constraints.txt" in line, f"{page.name}: {line}"


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="only `make test` has workers")
def test_a_files_tests_go_to_one_worker(request: pytest.FixtureRequest) -> None:
    """pytest-xdist writes the group behind the name of a test, or says nothing and shares the tests out singly."""
    assert request.node.nodeid.endswith("@test_makefile.py")
