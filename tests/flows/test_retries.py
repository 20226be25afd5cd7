"""Retries, the GPU lock, progress, logs and artifacts."""

import errno
import logging
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import botocore.exceptions
import httpx
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled
from prefect import flow, task
from prefect.task_engine import TaskRunTimeoutError
from small_runs import small_recipe

from flows.orchestration import progress
from flows.orchestration.artifacts import artifact_key, ignore_http_errors, show_table
from flows.orchestration.flow_run import resolve
from flows.orchestration.gpu_lock import exclusive, exclusive_gpu
from flows.orchestration.logs import show_logs
from flows.orchestration.progress import Bar, open_progress
from flows.orchestration.retries import RETRIES, is_transient
from synth.dataset.store import Store
from synth.errors import DatasetError, DistilleryError, RecipeError, RunError


def explained(error: Exception) -> DatasetError:
    """Wrap a library's error as `Store` does."""
    try:
        with Store("memory://set")._explained("written"):
            raise error
    except DatasetError as wrapped:
        return wrapped


class Answer(Exception):
    """An HTTP error, as httpx and requests raise it."""

    def __init__(self, status: int) -> None:
        self.response = SimpleNamespace(status_code=status)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (explained(OSError(errno.EBUSY, "SlowDown")), True),
        (explained(ConnectionRefusedError()), True),
        (httpx.ConnectError("no route"), True),
        (httpx.ReadTimeout("slow"), True),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://storage"), True),
        (Answer(503), True),
        (Answer(429), True),
        (Answer(404), False),
        (Answer(403), False),
        (RecipeError("a wrong key"), False),
        (DistilleryError("whatever"), False),
        (explained(OSError(errno.ENOSPC, "No space left on device")), False),
        (explained(PermissionError(errno.EACCES, "Permission denied")), False),
        (explained(FileNotFoundError(errno.ENOENT, "No such file")), False),
        (ValueError("a bug"), False),
        (MemoryError(), False),
        (OfflineModeIsEnabled("the user asked for it"), False),
        (TaskRunTimeoutError("48 hours"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_only_errors_of_network_and_storage_are_transient(error: BaseException, transient: bool) -> None:
    assert is_transient(error) is transient


def test_the_cause_of_an_error_decides() -> None:
    try:
        try:
            raise httpx.ConnectError("down")
        except httpx.ConnectError as error:
            raise FileNotFoundError("nothing in the cache") from error
    except FileNotFoundError as error:
        assert is_transient(error)


def test_tasks_retry_only_transient_errors(prefect_server: None) -> None:
    attempts: list[str] = []

    @task(**{**RETRIES, "retry_delay_seconds": 0})
    def busy() -> int:
        attempts.append("busy")
        if len(attempts) < 3:
            raise explained(OSError(errno.EBUSY, "SlowDown"))
        return len(attempts)

    @task(**{**RETRIES, "retry_delay_seconds": 0})
    def wrong() -> None:
        attempts.append("wrong")
        raise RecipeError("a wrong key")

    @task(**RETRIES, timeout_seconds=0.2)
    def slow() -> None:
        attempts.append("slow")
        time.sleep(30)

    @flow
    def all_of_them() -> int:
        number = busy()
        with pytest.raises(RecipeError, match="a wrong key"):
            wrong()
        with pytest.raises(TaskRunTimeoutError):
            slow()
        return number

    started = time.monotonic()
    assert all_of_them() == 3
    assert attempts == ["busy"] * 3 + ["wrong", "slow"]
    assert time.monotonic() - started < 25


def test_two_runs_take_turns(prefect_server: None) -> None:
    """Two runs take one slot in turn. Without a card, the limit has another name than a card's."""
    order: list[str] = []
    inside = threading.Event()

    def first() -> None:
        with exclusive("gpu-of-a-test"):
            inside.set()
            order.append("first in")
            time.sleep(1)
            order.append("first out")

    def second() -> None:
        inside.wait(30)
        with exclusive("gpu-of-a-test"):
            order.append("second in")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert order == ["first in", "first out", "second in"]


def test_without_a_gpu_there_is_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # nothing listens there
    with exclusive_gpu("cpu"):
        pass
    if not torch.cuda.is_available():
        with exclusive_gpu("auto"), exclusive_gpu("no device at all"):
            pass


def test_logs_and_bars_reach_terminal_and_ui(prefect_server: None, capsys: pytest.CaptureFixture[str]) -> None:
    from prefect.client.orchestration import get_client

    assert artifact_key("My Sofas, v2", "Numbers") == "my-sofas-v2-numbers"
    assert open_progress("images", "nobody") is None, "outside a run"
    show_logs()
    logging.getLogger("flows.of.a.test").info("a line for the terminal")
    assert "a line for the terminal" in capsys.readouterr().out

    @flow
    def shows() -> None:
        artifact = open_progress("images", "Sofas of a test")
        with Bar("painting", 8, "image", initial=2, artifact=artifact) as bar:
            bar.update(2)  # at once
            bar.update(1)  # too soon after the first
            bar.update(3)  # the last always goes out
            assert bar.n == 8
        show_table("sofas-of-a-test-parity", [{"size": 64, "difference": 1e-5}], "parity")

    shows()
    with get_client(sync_client=True) as client:
        shown = {artifact.key: artifact for artifact in client.read_artifacts() if artifact.key}
    assert shown["sofas-of-a-test-images"].data == 100.0
    assert "1e-05" in str(shown["sofas-of-a-test-parity"].data)


def test_a_bar_that_stands_still_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are asked twice a second how far they are, also long after the last image."""
    sent: list[float] = []
    monkeypatch.setattr("prefect.artifacts.update_progress_artifact", lambda _, percent: sent.append(percent))
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_UPDATES", 0.0)
    with Bar("painting", 8, "image", initial=2, artifact=uuid4()) as bar:
        for n in (2, 4, 4, 8, 8, 8):
            bar.advance_to(n)
            assert bar.n == n
    assert sent == [50.0, 100.0]


def test_a_silent_server_does_not_fail_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    show_logs()
    with ignore_http_errors():
        raise httpx.ConnectError("connection refused")
    assert "the UI could not be updated: connection refused" in capsys.readouterr().out
    with pytest.raises(ValueError), ignore_http_errors():
        raise ValueError("a bug")


def test_a_run_that_keeps_crashing_gives_up(tiny_sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import flows.orchestration.flow_run

    recipe = small_recipe(tiny_sd_folder)
    assert resolve(recipe, ["training.steps=9"]).training.steps == 9
    crashed = SimpleNamespace(flow_run=SimpleNamespace(run_count=6))
    monkeypatch.setattr(flows.orchestration.flow_run.FlowRunContext, "get", lambda: crashed)
    with pytest.raises(RunError, match="started 6 times and never finished"):
        resolve(recipe, [])
