"""After every fault, the run or the next one ends with the dataset and the student of an undisturbed run.

python -m pytest -m slow tests/slow/test_faults.py
"""

import http.client
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_datasets import contents
from small_runs import SMALL, paint, small_recipe
from workplace import Workplace, kill, parameter, wait_for

from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from flows.stages.distill import distill_flow
from flows.stages.synthesize import synthesize_flow
from flows.training.student import train_student
from synth.dataset.store import Store

pytestmark = pytest.mark.slow
LONG = [  # long enough to be interrupted
    *SMALL,
    *("scenes.count=40", "scenes.num_inference_steps=20"),
    *("training.steps=160", "training.checkpoint_every=20", "training.sample_every=160"),
]


@pytest.fixture(scope="module")
def undisturbed(tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with dataset and student, made by the plain functions without server or worker."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    recipe = small_recipe(tiny_sd_folder, *LONG)
    paint(recipe, out.parent / "dataset")
    RunFolder.open_or_create(recipe, out).use_dataset(str(out.parent / "dataset"))
    train_student(recipe, RunFolder(out))
    return out


def paint_and_train(recipe: Recipe, url: Path | str, out: Path) -> None:
    """Paint and train by the flows."""
    synthesize_flow(recipe, str(url))
    distill_flow(recipe, out, str(url))


def assert_the_same(out: Path, dataset: Path, undisturbed: Path) -> None:
    assert contents(dataset) == contents(undisturbed.parent / "dataset")
    assert_the_same_student(out, undisturbed)


def assert_the_same_student(out: Path, undisturbed: Path) -> None:
    weights = "student/diffusion_pytorch_model.safetensors"
    assert (out / weights).read_bytes() == (undisturbed / weights).read_bytes()


def begin(workplace: Workplace, teacher: Path, out: str) -> str:
    """Start a run of pipeline/sofas without waiting for it; returns its id."""
    overrides = [*LONG, f'teacher.id="{teacher}"']
    run = ["prefect", "deployment", "run", "pipeline/sofas", *parameter("overrides", overrides)]
    workplace.type(*run, *parameter("out", out))
    run_id: str = workplace.runs("pipeline/sofas")[0]["id"]
    return run_id


def wait_for_file(path: Path) -> None:
    wait_for(path.exists, f"{path}")


def test_a_worker_killed_twice(workplace: Workplace, tiny_sd_folder: Path, undisturbed: Path) -> None:
    """It dies with the run's process, while it paints and while it trains. Only the server still knows the run."""
    workplace.type("python", "-m", "flows.orchestration.deployments", "automate", "--seconds", "90")
    out = workplace.home / "killed"
    worker = workplace.start_worker()
    run = begin(workplace, tiny_sd_folder, str(out))
    for times, progress in enumerate(("dataset/data/train-00003.parquet", "checkpoints/step_000040"), start=1):
        wait_for_file(out / progress)
        kill(worker)
        assert not (out / "student").exists()
        wait_for(lambda times=times: workplace.states(run).count("AwaitingRetry") == times, "the automation")  # type: ignore[misc]
        worker = workplace.start_worker()
    wait_for(lambda: workplace.states(run)[-1] == "Completed", "the end of the run")
    assert workplace.states(run).count("Crashed") == 2
    kill(worker)
    assert_the_same(out, out / "dataset", undisturbed)


def test_database_and_server_restarted(workplace: Workplace, tiny_sd_folder: Path, undisturbed: Path) -> None:
    """Each is down for ten seconds: the database while the run paints, the server while it trains."""
    out = workplace.home / "restarted"
    worker = workplace.start_worker()
    run = begin(workplace, tiny_sd_folder, str(out))
    wait_for_file(out / "dataset/data/train-00002.parquet")
    workplace.database.stop()
    time.sleep(10)
    workplace.database.start()
    wait_for_file(out / "checkpoints/step_000040")
    kill(workplace.server)
    time.sleep(10)
    workplace.start_server()
    wait_for(lambda: workplace.states(run)[-1] == "Completed", "the end of the run")
    kill(worker)
    assert_the_same(out, out / "dataset", undisturbed)


def test_a_run_that_is_cancelled(workplace: Workplace, tiny_sd_folder: Path, undisturbed: Path) -> None:
    """It stops soon, and the next run of the recipe resumes from there."""
    out = workplace.home / "cancelled"
    worker = workplace.start_worker()
    run = begin(workplace, tiny_sd_folder, str(out))
    wait_for_file(out / "checkpoints/step_000040")
    workplace.type("prefect", "flow-run", "cancel", run)
    wait_for(lambda: workplace.states(run)[-1] == "Cancelled", "the end of the run", seconds=90)
    steps = len((out / "metrics.jsonl").read_text().splitlines())
    time.sleep(5)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == steps < 160, "the training has stopped"
    overrides = [*LONG, f'teacher.id="{tiny_sd_folder}"']
    again = ["prefect", "deployment", "run", "distill/alone", *parameter("overrides", overrides)]
    workplace.type(*again, *parameter("out", str(out)), "--watch")
    kill(worker)
    assert_the_same(out, out / "dataset", undisturbed)


@pytest.fixture
def shaky_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server behind a proxy that fails every tenth request with status 503 or by closing the connection."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    upstream = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    direct = f"http://{upstream[0]}:{upstream[1]}"
    boto3.client("s3", endpoint_url=direct, region_name="us-east-1").create_bucket(Bucket="sets")
    shaky = Shaky(upstream)
    threading.Thread(target=shaky.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{shaky.server_port}")
    s3fs.S3FileSystem.clear_instance_cache()  # which holds another test's endpoint
    yield "s3://sets"
    assert shaky.failed >= 5, "too few requests failed to prove anything"
    s3fs.S3FileSystem.clear_instance_cache()
    shaky.shutdown()
    server.stop()


class Shaky(ThreadingHTTPServer):
    """A proxy that forwards requests, except every tenth."""

    daemon_threads = True

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.upstream = upstream
        self.requests = 0
        self.failed = 0
        self.counting = threading.Lock()


class _Forward(BaseHTTPRequestHandler):
    server: Shaky
    protocol_version = "HTTP/1.1"  # S3's clients wait for "100 Continue" before they send a file

    def log_message(self, *_: object) -> None:
        return

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.counting:
            self.server.requests += 1
            fails = self.server.requests % 10 == 0
            self.server.failed += fails
            silent = self.server.failed % 2 == 0
        self.close_connection = True
        if fails:
            if not silent:
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
            return
        connection = http.client.HTTPConnection(*self.server.upstream)
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        content = response.read()
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward


def test_storage_that_fails_one_request_in_ten(
    shaky_bucket: str, prefect_server: None, tiny_sd_folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    url, out = f"{shaky_bucket}/sofas", tmp_path / "run"
    paint_and_train(small_recipe(tiny_sd_folder, *LONG), url, out)
    store = Store(url)
    expected = contents(undisturbed.parent / "dataset")
    assert {name: store.read(name) for name in expected} == expected
    assert_the_same_student(out, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of forty megabytes in memory, which only root may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk, and not in every container")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("stage", ["painting", "training"])
def test_a_disk_that_is_full(
    stage: str, small_disk: Path, prefect_server: None, tiny_sd_folder: Path, undisturbed: Path
) -> None:
    recipe, dataset, out = small_recipe(tiny_sd_folder, *LONG), small_disk / "dataset", small_disk / "run"
    if stage == "training":
        synthesize_flow(recipe, str(dataset))
    ballast = small_disk / "ballast"
    bytes_left = {"painting": 100_000, "training": 400_000}[stage]
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - bytes_left))
    with pytest.raises(Exception, match=r"[Nn]o space left"):
        paint_and_train(recipe, dataset, out)
    assert not (out / "student").exists()
    ballast.unlink()
    paint_and_train(recipe, dataset, out)
    assert_the_same(out, dataset, undisturbed)
