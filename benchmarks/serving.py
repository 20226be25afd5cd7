"""How much of the bare session's throughput remains over HTTP, and how much longer one request takes, in one run.

    python benchmarks/serving.py runs/demo/model.onnx [--clients 16] [--requests 160] [--rounds 3]

    bare      the ONNX session, on batches of the server's size and on inputs prepared before
    runtime   the Translator, on arrays of as many images
    server    parallel clients, each sending a PNG and reading the answer before it sends the next

Each turn makes the same number of images of the training size. The medians of the rounds are compared. Then one
client asks alone on a connection that stays open, by turns with the Translator's own call:

    latency   from the first byte of a request, whose image is raw PNG bytes, to the last byte of its answer
    keep-alive  of a request that makes nothing (/healthz), where only the connection counts: 40 ms more would be seen
                if TCP_NODELAY were not set
"""

import argparse
import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
from PIL import Image
from processes import one_line

from inference.runtime import MAX_BATCH, Translator
from inference.server.app import create_app
from inference.server.run import listen, make_server
from inference.server.served import load_models


@one_line
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    translator = Translator.load(args.model)
    size = int(translator.metadata["training_size"])
    edit = next(iter(translator.edits))
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)  # enlarged, for PNGs of realistic size
    image = Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)
    images = np.stack([np.asarray(image)] * MAX_BATCH)
    upload = io.BytesIO()
    image.save(upload, "PNG")
    feeds = {
        "image": images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1,
        "edit": np.zeros(MAX_BATCH, np.int64),
        "strength": np.ones(MAX_BATCH, np.float32),
    }
    num_batches = args.requests // MAX_BATCH

    def bare() -> None:
        for _ in range(num_batches):
            translator._session.run(["translated"], feeds)

    def runtime() -> None:
        for _ in range(num_batches):
            translator(images, edit)

    with (
        serving(args.model) as url,
        httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(keepalive_expiry=None)) as client,
        ThreadPoolExecutor(args.clients) as pool,
    ):

        def ask(_: int) -> None:
            answer = client.post("/v1/translate", params={"edit": edit}, files={"image": upload.getvalue()})
            answer.raise_for_status()

        def served() -> None:
            list(pool.map(ask, range(num_batches * MAX_BATCH)))

        works: dict[str, Callable[[], None]] = {"bare": bare, "runtime": runtime, "server": served}
        spent: dict[str, list[float]] = {name: [] for name in works}
        for round_ in range(args.rounds + 1):
            for name, work in works.items():
                started = time.perf_counter()
                work()
                if round_:  # the first warms up
                    spent[name].append(time.perf_counter() - started)
        call_s, request_s, alive_s = latencies(client, translator, image, upload.getvalue(), edit, args.requests)
    seconds = {name: float(np.median(times)) for name, times in spent.items()}
    print(f"bare     {num_batches * MAX_BATCH / seconds['bare']:.1f} images a second, {size} px")
    for name in ("runtime", "server"):
        print(f"{name:8} {seconds['bare'] / seconds[name]:.2f} of the bare session's throughput")
    print(
        f"latency  {request_s / call_s:.2f} of the Translator's own call ({call_s * 1000:.1f} ms), on one connection"
    )
    print(f"keep-alive  {alive_s / call_s:.3f} of it for a request that makes nothing")


@contextmanager
def serving(model: str) -> Iterator[str]:
    """Serve a model file from a thread: its address. Whatever fails meanwhile, the server ends."""
    with listen("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()
        server = make_server(create_app(load_models([model])))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://{host}:{port}"
        finally:
            server.should_exit = True
            thread.join()


def latencies(
    client: httpx.Client, translator: Translator, image: Image.Image, upload: bytes, edit: str, num: int
) -> tuple[float, float, float]:
    """Median seconds of the Translator's call, of a request for the same, and of a request that makes nothing."""
    works: list[Callable[[], object]] = [
        lambda: translator(image, edit),
        lambda: client.post("/v1/translate", params={"edit": edit}, content=upload).raise_for_status(),
        lambda: client.get("/healthz").raise_for_status(),
    ]
    spent: list[list[float]] = [[] for _ in works]
    for _ in range(num):
        for work, times in zip(works, spent, strict=True):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
    call_s, request_s, alive_s = (float(np.median(times)) for times in spent)
    return call_s, request_s, alive_s


if __name__ == "__main__":
    main()
