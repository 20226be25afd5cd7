"""Where a data set lies: on a disk that may fill, behind the S3 protocol, and under a process that may be killed."""

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
from test_dataset import contents, picked, scenes

from synth.dataset.building import synthesize
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.settings import TeacherSettings
from synth.teacher.teacher import Teacher

__all__ = ["picked"]  # a fixture

FORKS = multiprocessing.get_context("forkserver")
PICKY = {"filters": {"python": "test_dataset:no_red"}}


@pytest.fixture(scope="module", autouse=True)
def preloaded() -> None:
    """Children that need not import torch again."""
    FORKS.set_forkserver_preload(["synth.dataset.building", "diffusers", "test_dataset"])


def paint_in_child(teacher: Path, folder: Path, threads: int, largest_file: int | None = None) -> None:
    """What a worker's process does; with `largest_file`, on a disk that takes no larger one."""
    torch.set_num_threads(threads)  # the parent's: with others, sums round otherwise
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    loaded = Teacher.load(TeacherSettings(id=str(teacher), device="cpu"))
    if largest_file is None:
        synthesize(loaded, scenes(count=10, **PICKY), folder, progress=False)
        return
    try:
        synthesize(loaded, scenes(count=10, **PICKY), folder, progress=False)
    except DatasetError as error:
        (folder / "said").write_text(str(error))


def test_a_run_killed_again_and_again_ends_with_the_same_bytes(
    picked: Path, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    draws = random.Random(0)
    whole, kills = len(contents(picked)), 0
    for attempt in range(10):
        child = FORKS.Process(target=paint_in_child, args=(tiny_sd_folder, tmp_path, torch.get_num_threads()))
        child.start()
        begun = len(contents(tmp_path)) if tmp_path.exists() else 0
        while attempt % 2 and child.is_alive() and len(contents(tmp_path)) == begun < whole:
            time.sleep(0.005)  # every other time, not before a file was written
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


def test_a_disk_that_fills_leaves_whole_shards_and_a_clear_error(
    picked: Path, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    sizes = {name: len(data) for name, data in contents(picked).items() if name.startswith("data")}
    too_small = max(sizes.values()) - 1
    child = FORKS.Process(target=paint_in_child, args=(tiny_sd_folder, tmp_path, torch.get_num_threads(), too_small))
    child.start()
    child.join()
    said = (tmp_path / "said").read_text()
    assert "cannot be written: File too large; what was whole stays whole" in said
    for name, data in contents(tmp_path).items():
        assert contents(picked)[name] == data
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A real S3-protocol server on loopback."""
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


def test_a_set_behind_s3_is_the_same_set(bucket: str, picked: Path, tiny_teacher: Teacher) -> None:
    url = f"{bucket}/sofas"
    synthesize(tiny_teacher, scenes(count=6, **PICKY), url, progress=False)
    synthesize(tiny_teacher, scenes(count=10, **PICKY), url, progress=False)
    store = Store(url)
    assert not store.is_local
    for name, data in contents(picked).items():
        assert store.read(name) == data
    assert store.exists("preview.html") and store.exists("preview/train-00003.html")
    there, here = ImageDataset(url), ImageDataset(picked)
    assert there.fingerprint == here.fingerprint and (there.image(9) == here.image(9)).all()


def test_a_store_that_cannot_be_opened_or_read_says_so(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be opened"):
        Store("nosuchprotocol://bucket/x")
    with pytest.raises(DatasetError, match=r"s3://absent/x cannot be written"):
        Store("s3://absent/x").write("a", b"1")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cannot be written: (Not a directory|File exists)"):
        Store(tmp_path / "file").write("data/a", b"1")
    assert Store(tmp_path / "nowhere").names("data/*") == []
