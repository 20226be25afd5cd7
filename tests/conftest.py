"""What all tests share: small real parts, their order among processes, and what no test may leave to chance."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores: threads of their own would wait for each other's. Before anything imports torch.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# What the tests compare to the bit is a CPU's; `make gpu` is for a card. CUDA_VISIBLE_DEVICES=0 runs them on one.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test asks the network
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Prefect reads its settings when it is imported, which some test does before a command prepares this process: the
# secret of private servers must stand before.
os.environ["PREFECT_SERVER_API_AUTH_STRING"] = os.environ["PREFECT_API_AUTH_STRING"] = "distillery:of the tests"
os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"  # as the command has it: the project's lines go to the terminal

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from printed import printed

if TYPE_CHECKING:
    from workplace import Workplace

    from synth.teacher.teacher import Teacher


def pytest_configure(config: pytest.Config) -> None:
    """Import the large libraries in processes that run tests: later pytest makes errors of their warnings.

    The process that only hands tests to others, and collects none, does without the ten seconds.
    """
    if "PYTEST_XDIST_WORKER" in os.environ or not config.getoption("numprocesses", None):
        import tiny_pipelines  # noqa: F401


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Divide the tests among the workers of `pytest -n 2 --dist loadgroup`.

    A file's tests stay together, for what its fixtures make. All tests with a Prefect server go to one worker, which
    starts the server and makes the finished run once.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        with_server = "prefect_server" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("prefect" if with_server else item.path.name))


def pytest_collection_finish() -> None:
    """Take what all modules hold out of the garbage collector's sight: each training of a test calls it, and looking
    at a million objects took half of the time of some."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command says yes for its own process, which is here that of all tests."""
    monkeypatch.delenv("DISTILLERY_TRUST", raising=False)


@pytest.fixture(scope="session")
def tiny_sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_pipelines import save_sd

    return save_sd(tmp_path_factory.mktemp("tiny-sd"))


@pytest.fixture(scope="session")
def light_sd_folder(tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For runs whose export is not at stake: it takes half of the time."""
    from tiny_pipelines import save_light

    return save_light(tiny_sd_folder, tmp_path_factory.mktemp("light-sd"))


@pytest.fixture(scope="session")
def tiny_v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_pipelines import save_v

    return save_v(tmp_path_factory.mktemp("tiny-v"))


@pytest.fixture(scope="session")
def tiny_xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_pipelines import save_xl

    return save_xl(tmp_path_factory.mktemp("tiny-xl"))


@pytest.fixture(scope="session")
def tiny_3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_pipelines import save_3

    return save_3(tmp_path_factory.mktemp("tiny-3"))


@pytest.fixture(scope="session")
def tiny_teacher(tiny_sd_folder: Path) -> "Teacher":
    return load_teacher(tiny_sd_folder)


@pytest.fixture(scope="session")
def tiny_v_teacher(tiny_v_folder: Path) -> "Teacher":
    return load_teacher(tiny_v_folder)


@pytest.fixture(scope="session")
def tiny_xl_teacher(tiny_xl_folder: Path) -> "Teacher":
    return load_teacher(tiny_xl_folder)


@pytest.fixture(scope="session")
def tiny_3_teacher(tiny_3_folder: Path) -> "Teacher":
    return load_teacher(tiny_3_folder)


def load_teacher(folder: Path) -> "Teacher":
    from synth.settings import TeacherSettings
    from synth.teacher.teacher import Teacher

    return Teacher.load(TeacherSettings(id=str(folder), device="cpu"))


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def finished(finished_and_said: tuple[Path, str]) -> Path:
    return finished_and_said[0]


@pytest.fixture(scope="session")
def finished_and_said(
    prefect_server: None, tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder of a whole run, and what was printed meanwhile."""
    from small_runs import run_command

    out = tmp_path_factory.mktemp("runs") / "small"
    with printed() as elsewhere:
        result = run_command(tiny_sd_folder, out)
        said = elsewhere() + result.output
    assert result.exit_code == 0, result.output
    assert f"report {out / 'report.html'}\nmodel  {out / 'model.onnx'}\n" in result.stdout
    return out, said


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Workplace]":
    """Postgres, a Prefect server on it, and the deployments; for the slow tests."""
    from workplace import Postgres, Workplace, postgres_programs

    programs = postgres_programs()
    if programs is None:
        pytest.skip("no Postgres here: `apt-get install postgresql`, or put its initdb on the PATH")
    database = Postgres(programs)
    place = Workplace(tmp_path_factory.mktemp("workplace"), database)
    yield place
    place.close()
    database.remove()
