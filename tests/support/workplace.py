"""A real deployment for tests: Postgres, a Prefect server on it, the deployments, and workers that may be killed.

Postgres is Debian's package `postgresql`, or any other whose `initdb` is on the PATH. It runs in a temporary folder,
as an unprivileged user.
"""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
MAX_SECONDS = 1200  # to wait for anything, on a busy machine


def postgres_programs() -> Path | None:
    """Find the folder of `initdb` and `postgres`. Debian keeps one for each version, off the PATH."""
    initdb = shutil.which("initdb")
    folders = [Path(initdb).resolve().parent] if initdb else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next(
        (folder for folder in folders if (folder / "postgres").exists() and (folder / "initdb").exists()), None
    )


class Postgres:
    """A database server in a temporary folder."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="distillery-postgres-"))
        self._user: str | None = None
        if os.geteuid() == 0:  # Postgres refuses to run as root
            names = {entry.pw_name for entry in pwd.getpwall()}
            self._user = "postgres" if "postgres" in names else "nobody"
            shutil.chown(self.folder, self._user)
        self.url = f"postgresql+asyncpg://prefect@127.0.0.1:{self._port}/postgres"
        subprocess.run(
            [programs / "initdb", "-D", self.folder / "data", "-U", "prefect", "-A", "trust", "-E", "UTF8", "-N"],
            user=self._user,
            cwd=self.folder,
            check=True,
            capture_output=True,
        )
        self.start()

    def start(self) -> None:
        """Start it, with its socket in its own folder so that it does not collide with another Postgres."""
        options = ["-D", self.folder / "data", "-k", self.folder, "-h", "127.0.0.1", "-p", str(self._port)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", *options], user=self._user, cwd=self.folder, stdout=log, stderr=log
            )
        wait_for(lambda: listens(self._port), "Postgres")

    def stop(self) -> None:
        """Stop it as `pg_ctl stop -m fast` does: it cuts connections and keeps what was committed."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)

    def remove(self) -> None:
        """Stop it and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder)


class Workplace:
    """A Prefect server, and the commands that a user types."""

    def __init__(self, folder: Path, database: Postgres) -> None:
        self._port = free_port()
        self.database = database
        self.api = f"http://127.0.0.1:{self._port}/api"
        self.folder = folder
        self.home = folder / "home"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url,
            "PREFECT_SERVER_API_AUTH_STRING": "distillery:of the tests",  # the rest is in prefect.toml
            "PREFECT_API_AUTH_STRING": "distillery:of the tests",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "DISTILLERY_HOME": str(self.home),
        }
        self.client = httpx.Client(base_url=self.api, auth=("distillery", "of the tests"), timeout=60)
        self._started: list[subprocess.Popen[bytes]] = []
        self.start_server()
        self.type("prefect", "work-pool", "create", "distillery", "--type", "process")
        self.deployed = self.type("prefect", "--no-prompt", "deploy", "--all")

    def start_server(self) -> None:
        """Start the server, again on the same port."""
        self.server = self.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self._port))
        wait_for(lambda: answers(f"{self.api}/health"), "the server")

    def start_worker(self) -> "subprocess.Popen[bytes]":
        """Start a process worker of the pool."""
        return self.start("prefect", "worker", "start", "--pool", "distillery")

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        """Start a program in the background, with its output in a numbered log beside the runs."""
        with (self.folder / f"{len(self._started)}-{command[1]}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self._started.append(process)
        return process

    def type(self, *command: str) -> str:
        """Run a program to its end; returns its output. Fails if the program does."""
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MAX_SECONDS,
        )
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    def post(self, path: str, **body: Any) -> Any:
        """Send a POST to the API; returns its response."""
        response = self.client.post(path, json=body, headers=self.csrf_headers())
        response.raise_for_status()
        return response.json()

    def csrf_headers(self) -> dict[str, str]:
        """The headers that a request needs to change something."""
        token = self.client.get("/csrf-token", params={"client": "tests"}).json()["token"]
        return {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "tests"}

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment such as "pipeline/sofas", newest first."""
        flow, _, name = deployment.partition("/")
        runs: list[dict[str, Any]] = self.post(
            "/flow_runs/filter",
            flows={"name": {"any_": [flow]}},
            deployments={"name": {"any_": [name]}},
            sort="EXPECTED_START_TIME_DESC",
        )
        return runs

    def states(self, run_id: str) -> list[str]:
        """The names of a run's states, oldest first."""
        response = self.client.get("/flow_run_states/", params={"flow_run_id": run_id})
        return [state["name"] for state in sorted(response.json(), key=lambda state: state["timestamp"])]

    def artifacts(self) -> dict[str, Any]:
        """The data of the newest artifact of each key."""
        return {artifact["key"]: artifact["data"] for artifact in self.post("/artifacts/latest/filter", limit=200)}

    def log(self) -> str:
        """The newest lines of all runs' logs."""
        return "\n".join(line["message"] for line in self.post("/logs/filter", sort="TIMESTAMP_DESC", limit=200))

    def close(self) -> None:
        """Kill all that was started."""
        self.client.close()
        for process in reversed(self._started):
            kill(process)


def parameter(name: str, value: Any) -> list[str]:
    """A parameter as `prefect deployment run` takes it."""
    return ["--param", f"{name}={json.dumps(value)}"]


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all its descendants at once, as when a machine is lost."""
    if process.poll() is not None:
        return
    for pid in [*_descendants(process.pid), process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def _descendants(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listed.splitlines())}
    pids = [pid]
    for ancestor in pids:  # grows while it is read
        pids += [child for child, parent in parents.items() if parent == ancestor]
    return pids[1:]


def free_port() -> int:
    """Find a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether something listens on the port."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    """Whether the URL answers with status 200."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def wait_for(condition: Callable[[], bool], what: str, seconds: float = MAX_SECONDS) -> None:
    """Wait until the condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.2)
