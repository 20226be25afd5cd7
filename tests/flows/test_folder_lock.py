"""Two commands on one run folder: the second says who is at work, does nothing, and takes over from a dead one."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import SMALL, command, run_command, small_recipe

from flows.config.loading import load_recipe
from flows.run import lock
from flows.run.folder import RunFolder
from flows.run.lock import FolderInUseError, exclusive_folder, exclusive_run
from flows.run.retention import clear_old_runs
from synth.errors import FileError

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from flows.run.lock import exclusive_folder
with exclusive_folder(Path(sys.argv[1])):
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    """Another process at work on `tmp_path / "run"`, a new folder."""
    with start(tmp_path / "run") as process:
        yield process
        process.kill()


def start(folder: Path) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", HOLD, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    return process


def entries(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_second_says_who_is_at_work(other: Any, tmp_path: Path) -> None:
    """Process, host, since when and by what; the folder's other names are the same folder."""
    owner = json.loads((tmp_path / "run" / ".owner.json").read_text())
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for name in ("run", "link", "run/../run"):
        with pytest.raises(FolderInUseError) as raised, exclusive_folder(tmp_path / name):
            raise AssertionError("two at work")
        assert str(raised.value) == (
            f"{tmp_path / name} is in use: process {other.pid} on {platform.node()} is at work there since "
            f"{owner['since']} ({owner['command']}); wait until it has ended, or choose another folder"
        )
    with exclusive_folder(tmp_path / "other"):  # another folder, at once
        assert (tmp_path / "other" / ".owner.json").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_owner_is_followed(other: Any, tmp_path: Path, number: int) -> None:
    other.send_signal(number)
    other.wait(10)
    assert (tmp_path / "run" / ".owner.json").exists(), "it could not tidy up"
    with exclusive_folder(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".owner.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / ".owner.json").exists()


def test_again_within_and_after(tmp_path: Path) -> None:
    """A stage within a run, and a flow that is tried again in the same process."""
    for _ in range(2):
        with exclusive_folder(tmp_path), exclusive_folder(tmp_path):
            pass
        with pytest.raises(ZeroDivisionError), exclusive_folder(tmp_path):
            _ = 1 / 0


def test_two_threads_of_one_process(tmp_path: Path) -> None:
    found: list[BaseException] = []

    def enter() -> None:
        try:
            with exclusive_folder(tmp_path):
                pass
        except FolderInUseError as error:
            found.append(error)

    with exclusive_folder(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(found) == 1 and f"process {os.getpid()} " in str(found[0])


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b"[" * 10000])
def test_a_damaged_owner_hides_no_lock(other: Any, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "run" / ".owner.json").write_bytes(damage)
    with (
        pytest.raises(FolderInUseError, match="another command is at work there"),
        exclusive_folder(tmp_path / "run"),
    ):
        pass


def claim(folder: Path, seconds_ago: float, **owner: str) -> None:
    """Leave what a process of another machine leaves, whose lock the storage did not pass on."""
    folder.mkdir(exist_ok=True)
    file = folder / ".owner.json"
    known = {"pid": 7, "host": "far", "boot": "b", "since": "2026-01-01 00:00:00 UTC", "command": "distillery"}
    file.write_text(json.dumps(known | owner))
    when = file.stat().st_mtime - seconds_ago
    os.utime(file, (when, when))


def test_another_machine_is_followed_after_silence(tmp_path: Path) -> None:
    claim(tmp_path, seconds_ago=100)
    with pytest.raises(FolderInUseError, match=r"process 7 on far .* once 180 seconds") as raised:
        exclusive_folder(tmp_path).__enter__()
    assert len(str(raised.value).splitlines()) == 1
    claim(tmp_path, seconds_ago=200)
    with exclusive_folder(tmp_path):
        pass


def test_containers_of_one_machine_share_its_locks(tmp_path: Path) -> None:
    """Their hosts' names differ; the kernel is the same, and says that the other has ended."""
    claim(tmp_path, seconds_ago=1, boot=lock._boot())
    with exclusive_folder(tmp_path):
        pass
    claim(tmp_path, seconds_ago=1, host=platform.node(), boot="before the restart")
    with exclusive_folder(tmp_path):
        pass


def test_an_owner_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_SIGN_OF_LIFE", 0.05)
    with exclusive_folder(tmp_path):
        file = tmp_path / ".owner.json"
        os.utime(file, (0, 0))
        done = threading.Event()
        while file.stat().st_mtime == 0:
            assert not done.wait(0.05)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file/run cannot be locked"), exclusive_folder(tmp_path / "file" / "run"):
        pass


def test_secrets_of_the_command_stay_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/distillery", "run", "--data", "s3://key:secret@bucket/set"])
    with exclusive_folder(tmp_path):
        assert "secret" not in (tmp_path / ".owner.json").read_text()


def test_machines_of_one_training_share_a_folder(other: Any, tmp_path: Path) -> None:
    config = tmp_path / "accelerate.yaml"
    for rank, is_main in ((0, True), (1, False)):
        config.write_text(f"compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nmachine_rank: {rank}\n")
        recipe = load_recipe("demo", [f'operations.accelerate_config="{config}"'])
        if is_main:
            with pytest.raises(FolderInUseError), exclusive_run(recipe, tmp_path / "run"):
                pass
            continue
        with exclusive_run(recipe, tmp_path / "run"):
            assert json.loads((tmp_path / "run" / ".owner.json").read_text())["pid"] == other.pid


@pytest.fixture
def busy(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A finished run on which another process is at work."""
    folder = shutil.copytree(finished, tmp_path / "small")
    with start(folder) as process:
        yield folder
        process.kill()


def test_writers_are_refused_and_change_nothing(busy: Path, tiny_sd_folder: Path) -> None:
    before = entries(busy)
    longer = run_command(tiny_sd_folder, busy, "training.steps=9")
    overrides = [word for override in SMALL for word in ("--set", override)]
    arguments = ["sofas", "--teacher", tiny_sd_folder, *overrides, "--data", busy / "dataset", "--out", busy]
    refused = (
        longer,
        command("distill", *arguments),
        command("export", busy, "--format", "torchscript"),
        command("publish", busy, "--to", "hf://owner/name"),
    )
    for result in refused:
        assert result.exit_code == 2 and result.stderr.startswith(f"error: {busy} is in use: process "), result.output
    assert entries(busy) == before


def test_readers_never_wait(busy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`inspect` and `translate` read; `evaluate` measures and prints, and keeps nothing."""
    import flows.evaluation.scenes as scenes
    from synth.world.readers import FactorNetwork, FactorReader

    before = entries(busy)
    assert command("inspect", busy / "model.onnx").exit_code == 0
    monkeypatch.setattr(FactorReader, "load", staticmethod(lambda: FactorReader(FactorNetwork())))
    measured = command("evaluate", "student", busy)
    assert measured.exit_code == 0, measured.output
    assert "mean over edits" in measured.stdout
    assert f"not kept in the run folder: {busy} is in use: process " in measured.stdout
    assert entries(busy) == before
    assert scenes.RunFolder(busy).read_evaluation() is None


def test_metrics_of_a_replaced_model_are_not_kept(finished: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    from flows.evaluation.scenes import keep, measure_model
    from synth.errors import RunError
    from synth.world.readers import FactorNetwork, FactorReader

    run = RunFolder(shutil.copytree(finished, tmp_path / "small"))
    measured = measure_model(small_recipe(tiny_sd_folder), run.path, FactorReader(FactorNetwork()))
    assert measured is not None
    run.mark_done("export", "another one")
    with pytest.raises(RunError, match="was replaced while it was measured"):
        keep(run, measured)
    assert not run.evaluation.exists()


def test_a_run_at_work_is_not_deleted(busy: Path, tiny_sd_folder: Path, finished: Path) -> None:
    newest = shutil.copytree(finished, busy.with_name("newest"))
    (newest / "report.html").touch()
    recipe = small_recipe(tiny_sd_folder, "operations.keep_runs=1")
    assert clear_old_runs(recipe, newest) == [] and busy.exists()


def test_the_lock_is_no_part_of_a_run(tmp_path: Path) -> None:
    """It neither fills a new folder nor travels with a run."""
    from flows.run.remote_state import is_run_file

    with exclusive_folder(tmp_path):
        assert RunFolder.check(load_recipe("demo"), tmp_path).path == tmp_path
    assert not is_run_file(".lock") and not is_run_file(".owner.json")
