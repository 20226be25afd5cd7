"""What Prefect costs: flow runs compared with the plain functions that they call, with a server of their own.

    python benchmarks/overhead.py shards [--num 1000]     many shards, painted at no cost
    python benchmarks/overhead.py painting [--turns 2]    one shard of 250 images at 0.2 s per image

Sleep stands in for a GPU's time: like a GPU, it leaves the processor to Prefect's own work.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from processes import NoisePainter

SECONDS_PER_IMAGE = 0.2


class Sleeper(NoisePainter):
    """A painter of known cost."""

    def __call__(self, prompts: list[str], generator: list[torch.Generator], **more: Any) -> Any:
        """Sleep as long as a GPU would take to paint the prompts."""
        time.sleep(SECONDS_PER_IMAGE * len(prompts))
        return super().__call__(prompts, generator, **more)


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """Start a Prefect server on SQLite, point this process at it and yield its process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"PREFECT_HOME": str(folder), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Two minutes at most: a fresh server first creates its database.
    for _ in range(240):
        try:
            httpx.get(f"{os.environ['PREFECT_API_URL']}/health", timeout=5)
            break
        except httpx.HTTPError:
            time.sleep(0.5)
    else:
        process.kill()
        sys.exit("the Prefect server did not answer within two minutes")
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def shards(num: int, server_pid: int, folder: Path) -> None:
    """Paint `num` shards of 10 images at no cost, in one flow run and once more without Prefect."""
    recipe = _recipe(num, shard_size=10)
    memory: list[tuple[int, float, float]] = []

    class MemoryRecorder(NoisePainter):
        called = 0  # once per shard, as a batch is a shard

        def __call__(self, *arguments: Any, **more: Any) -> Any:
            self.called += 1
            if self.called in {num // 10, num // 2, num}:
                memory.append((self.called, _mebibytes(os.getpid()), _mebibytes(server_pid)))
            return super().__call__(*arguments, **more)

    with_prefect = _flow(recipe, MemoryRecorder(), folder / "flow")
    bare = _plain(recipe, NoisePainter(), folder / "plain")
    print(f"{num} shards  {with_prefect:.1f} s as a flow, {bare:.1f} s bare")
    print(f"overhead     {(with_prefect - bare) / num:.3f} s per shard")
    for number, ours, theirs in memory:
        print(f"shard {number:6}  {ours:.0f} MiB in the run's process, {theirs:.0f} MiB in the server's")


def painting(turns: int, folder: Path) -> None:
    """Paint whole shards at a GPU's speed, in turns with and without Prefect."""
    recipe = _recipe(1, shard_size=250)
    seconds = {"flow": 0.0, "bare": 0.0}
    for turn in range(turns):
        seconds["flow"] += _flow(recipe, Sleeper(), folder / f"flow{turn}")
        seconds["bare"] += _plain(recipe, Sleeper(), folder / f"plain{turn}")
    for name, value in seconds.items():
        print(f"{name}  {value / turns:.1f} s per shard of 250 images")
    print(f"overhead  {100 * (seconds['flow'] / seconds['bare'] - 1):.2f} %")


def _recipe(num_shards: int, shard_size: int) -> Any:
    from flows.config.loading import load_recipe

    overrides = (f"scenes.count={num_shards * shard_size}", f"scenes.shard_size={shard_size}")
    return load_recipe("sofas", [*overrides, "scenes.batch_size=10", "scenes.filters.min_contrast=0"])


def _flow(recipe: Any, painter: NoisePainter, out: Path) -> float:
    from flows.stages import synthesize

    synthesize.open_teacher = lambda _: painter  # type: ignore[assignment]
    return _seconds(lambda: synthesize.synthesize_flow(recipe, str(out)))


def _plain(recipe: Any, painter: NoisePainter, out: Path) -> float:
    from synth.dataset.building import synthesize

    return _seconds(lambda: synthesize(painter, recipe.scenes, out, progress=False))  # type: ignore[arg-type]


def _seconds(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def _mebibytes(pid: int) -> float:
    """The resident memory of a process, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["shards", "painting"])
    parser.add_argument("--num", type=int, default=1000, help="number of shards (default: 1000)")
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "prefect") as pid:
        if args.what == "shards":
            shards(args.num, pid, Path(folder))
        else:
            painting(args.turns, Path(folder))


if __name__ == "__main__":
    main()
