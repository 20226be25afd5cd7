"""Storage: on a disk that fills, behind the S3 protocol, and under processes that are killed."""

import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_datasets import PICKY, contents, picked, scenes

from synth.dataset.building import synthesize
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.settings import TeacherSettings
from synth.teacher.teacher import Teacher

__all__ = ["picked"]  # a fixture

FORKS = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def preloaded() -> None:
    """Children are forked from a server that has imported torch."""
    FORKS.set_forkserver_preload(["synth.dataset.building", "diffusers", "small_datasets"])


def paint_in_child(teacher: Path, folder: Path, threads: int, max_file_size: int | None = None) -> None:
    """A worker's process, on a disk that takes no file above `max_file_size`."""
    torch.set_num_threads(threads)  # the parent's: sums round differently with another number
    if max_file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_size, max_file_size))
    loaded = Teacher.load(TeacherSettings(id=str(teacher), device="cpu"))
    if max_file_size is None:
        synthesize(loaded, scenes(count=10, **PICKY), folder, progress=False)
        return
    try:
        synthesize(loaded, scenes(count=10, **PICKY), folder, progress=False)
    except DatasetError as error:
        (folder / "error").write_text(str(error))


def test_a_run_killed_again_and_again_gives_the_same_bytes(
    picked: Path, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    draws = random.Random(0)
    num_files = len(contents(picked))
    kills = 0
    for attempt in range(10):
        child = FORKS.Process(target=paint_in_child, args=(tiny_sd_folder, tmp_path, torch.get_num_threads()))
        child.start()
        before = len(contents(tmp_path)) if tmp_path.exists() else 0
        while attempt % 2 and child.is_alive() and len(contents(tmp_path)) == before < num_files:
            time.sleep(0.005)  # every other kill comes after a file is written
        child.join(draws.uniform(0.0, 0.3))
        if child.is_alive():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
    assert kills >= 3
    last = FORKS.Process(target=paint_in_child, args=(tiny_sd_folder, tmp_path, torch.get_num_threads()))
    last.start()
    last.join()
    assert last.exitcode == 0
    assert contents(tmp_path) == contents(picked)
    assert len(ImageDataset(tmp_path)) == 10


def test_a_full_disk_leaves_whole_shards_and_an_error(picked: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    sizes = {name: len(data) for name, data in contents(picked).items() if name.startswith("data")}
    too_small = max(sizes.values()) - 1
    child = FORKS.Process(target=paint_in_child, args=(tiny_sd_folder, tmp_path, torch.get_num_threads(), too_small))
    child.start()
    child.join()
    error = (tmp_path / "error").read_text()
    assert "cannot be written: File too large; what was whole stays whole" in error
    for name, data in contents(tmp_path).items():
        assert contents(picked)[name] == data
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A real server of the S3 protocol on loopback."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": endpoint}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="sets")
    yield "s3://sets"
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    server.stop()


def test_a_dataset_on_s3_has_the_same_bytes(bucket: str, picked: Path, tiny_teacher: Teacher) -> None:
    url = f"{bucket}/sofas"
    synthesize(tiny_teacher, scenes(count=6, **PICKY), url, progress=False)
    synthesize(tiny_teacher, scenes(count=10, **PICKY), url, progress=False)
    store = Store(url)
    assert not store.is_local
    for name, data in contents(picked).items():
        assert store.read(name) == data
    assert store.exists("preview.html") and store.exists("preview/train-00003.html")
    remote = ImageDataset(url)
    local = ImageDataset(picked)
    assert remote.fingerprint == local.fingerprint and (remote.image(9) == local.image(9)).all()


def test_storage_that_cannot_be_used_is_an_error(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be opened"):
        Store("nosuchprotocol://bucket/x")
    with pytest.raises(DatasetError, match=r"s3://absent/x cannot be written"):
        Store("s3://absent/x").write("a", b"1")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cannot be written: (Not a directory|File exists)"):
        Store(tmp_path / "file").write("data/a", b"1")
    assert Store(tmp_path / "nowhere").names("data/*") == []
