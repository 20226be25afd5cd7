"""A server under everything at once: mixed requests, idle connections, slow readers and images of many shapes.

It prints its memory and descriptors before, at the top and after:

    python -m pytest tests/slow/test_soak.py -m slow -s
"""

import io
import os
import random
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image
from tiny_model import noise, properties, write_model

NUM_REQUESTS = 2500
NUM_IDLE = 1000
NUM_SLOW_READERS = 24
NUM_SHAPES = 300
pytestmark = pytest.mark.slow


class Process:
    """The command itself, with few descriptors to begin with, and what the kernel says of it."""

    def __init__(self, model: Path):
        command = [sys.executable, "-c", "from flows.cli import main; main()", "serve", str(model), "--port", "0"]
        soft, hard = 256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]

        def few_descriptors() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=few_descriptors)
        self.log: list[str] = []
        threading.Thread(target=self._read_log, daemon=True).start()
        ends = time.monotonic() + 60
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", "".join(self.log))):
            assert time.monotonic() < ends and self._process.poll() is None, "".join(self.log)
            time.sleep(0.05)
        self.port = int(found[1])
        self.top = (0.0, 0)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)

    def measure(self) -> tuple[float, int]:
        """Resident MiB and open descriptors, now; the most of each is kept in `top`."""
        folder = Path(f"/proc/{self._process.pid}")
        mib = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        now = mib, len(list((folder / "fd").iterdir()))
        self.top = max(self.top[0], now[0]), max(self.top[1], now[1])
        return now

    def stop(self) -> float:
        """SIGTERM; seconds until it is gone."""
        begin = time.monotonic()
        self._process.terminate()
        self._process.wait(70)
        return time.monotonic() - begin


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    if not Path("/proc/self/statm").exists():
        pytest.skip("the kernel does not say how much memory is used")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("too few file descriptors for so many connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    process = Process(write_model(tmp_path / "model.onnx", properties(name="rooms")))
    yield process
    process.stop()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def encoded(height: int, width: int, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(height, width, seed)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def post(content: bytes) -> bytes:
    head = "POST /v1/translate?edit=red+leather HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def request(client: httpx.Client, rng: random.Random, good: bytes) -> int:
    """One of many kinds of request, good and bad."""
    edit = {"edit": "red leather"}
    kinds = [
        lambda: client.post("/v1/translate", params=edit, content=good),
        lambda: client.post("/v1/translate", params=edit, content=good[: rng.randrange(len(good))]),
        lambda: client.post("/v1/translate", params=edit, content=rng.randbytes(500)),
        lambda: client.post("/v1/translate", params={"edit": "x" * 150}, content=good),
        lambda: client.post("/v1/translate", params=edit, files={"image": good}),
        lambda: client.post("/v1/translate", params=edit, content=good, headers={"Origin": "https://evil.example"}),
        lambda: client.get("/v1/models", headers={"Host": "evil.example"}),
        lambda: client.get(rng.choice(["/", "/healthz", "/docs", "/openapi.json", "/models/rooms.onnx", "/absent"])),
    ]
    return rng.choice(kinds)().status_code


def shape(rng: random.Random) -> tuple[int, int]:
    """Height and width of at most half a million pixels, now and then as long as is allowed."""
    side, aspect = rng.randrange(1, 700), rng.choice([1, 1, 2, 10, 49])
    short = max(1, int(side / aspect**0.5))
    return (short, short * aspect) if rng.random() < 0.5 else (short * aspect, short)


def test_it_holds_and_gives_everything_back(process: Process) -> None:
    rng, good = random.Random(0), encoded(60, 90)
    limits = httpx.Limits(max_connections=32, max_keepalive_connections=0)
    with httpx.Client(
        base_url=f"http://127.0.0.1:{process.port}", timeout=60, trust_env=False, limits=limits
    ) as client:
        for _ in range(50):  # warm: what the libraries keep for good
            request(client, rng, good)
        large = encoded(3000, 3000)
        client.post("/v1/translate", params={"edit": "red leather"}, content=large)
        before = process.measure()

        idle = [socket.create_connection(("127.0.0.1", process.port)) for _ in range(NUM_IDLE)]
        readers = [socket.create_connection(("127.0.0.1", process.port)) for _ in range(NUM_SLOW_READERS)]

        def read_slowly(reader: socket.socket) -> None:
            # The server may let a slow one go, and a busy machine may take longer than this waits.
            with suppress(OSError):
                reader.sendall(post(large))
                reader.settimeout(60)
                reader.recv(1)

        slow = [threading.Thread(target=read_slowly, args=(reader,), daemon=True) for reader in readers]
        for thread in slow:
            thread.start()
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.05):
                process.measure()

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(16) as pool:
            seeds = [rng.randrange(2**30) for _ in range(NUM_REQUESTS)]
            seen = Counter(pool.map(lambda seed: request(client, random.Random(seed), good), seeds))
            shapes = [shape(rng) for _ in range(NUM_SHAPES)]
            edit = {"edit": "red leather"}
            seen_shapes = Counter(
                pool.map(
                    lambda size: client.post("/v1/translate", params=edit, content=encoded(*size)).status_code, shapes
                )
            )
        for connection in [*idle, *readers]:
            connection.close()
        done.set()
        watcher.join()
        client.close()
    time.sleep(12)  # what was not sent is given up by then
    after = process.measure()
    seconds = process.stop()
    for name, (mib, descriptors) in {"before": before, "at the top": process.top, "after": after}.items():
        print(f"{name:10} {mib:6.0f} MiB, {descriptors} descriptors")
    print(
        f"requests {dict(seen)}, shapes {dict(seen_shapes)}; {len(process.log)} lines of log; {seconds:.1f} s to stop"
    )
    assert set(seen) <= {200, 403, 404, 415, 421, 422, 429, 503}
    assert seen_shapes[200] >= NUM_SHAPES - 10
    assert after[1] <= before[1] + 5
    assert after[0] <= before[0] + 150
    assert seconds < 15
    assert len(process.log) < 150
