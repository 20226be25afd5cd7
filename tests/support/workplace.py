"""A workplace of real parts: Postgres, a Prefect server on it, the deployments, and workers that may be killed.

Postgres is Debian's package `postgresql`, or any other whose `initdb` is on the PATH. It runs in a folder of its own,
as an unprivileged user, and leaves nothing behind.
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
PATIENCE = 1200  # seconds, for a machine that has other things to do


def postgres_programs() -> Path | None:
    """The folder of `initdb` and `postgres`; Debian keeps them off the PATH, a folder for each version."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "postgres").exists() and (place / "initdb").exists()), None)


class Postgres:
    """A database server in a folder of its own, which its user can reach."""

    def __init__(self, programs: Path) -> None:
        self._programs, self._port = programs, free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="distillery-postgres-"))
        self._user: str | None = None
        if os.geteuid() == 0:  # Postgres refuses to be root
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
        """Its own folder has its socket, so that nobody else's Postgres is in the way."""
        options = ["-D", self.folder / "data", "-k", self.folder, "-h", "127.0.0.1", "-p", str(self._port)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", *options], user=self._user, cwd=self.folder, stdout=log, stderr=log
            )
        wait_for(lambda: listens(self._port), "Postgres")

    def stop(self) -> None:
        """As `pg_ctl stop -m fast`: connections are cut, what was committed stays."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)

    def remove(self) -> None:
        """With all that it kept."""
        self.stop()
        shutil.rmtree(self.folder)


class Workplace:
    """A server, and the commands that a person types."""

    def __init__(self, folder: Path, database: Postgres) -> None:
        self._port, self.database = free_port(), database
        self.api, self.folder, self.home = f"http://127.0.0.1:{self._port}/api", folder, folder / "home"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url,
            "PREFECT_SERVER_API_AUTH_STRING": "distillery:of the tests",  # prefect.toml has the rest
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
        """On the port that it had before, if any."""
        self.server = self.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self._port))
        wait_for(lambda: answers(f"{self.api}/health"), "the server")

    def start_worker(self) -> "subprocess.Popen[bytes]":
        """A process worker of the pool."""
        return self.start("prefect", "worker", "start", "--pool", "distillery")

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        """A program that stays. What it says is in a numbered log beside the runs."""
        with (self.folder / f"{len(self._started)}-{command[1]}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self._started.append(process)
        return process

    def type(self, *command: str) -> str:
        """A program that ends, and ends well; what it said."""
        ran = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        assert ran.returncode == 0, ran.stdout
        return ran.stdout

    def ask(self, path: str, **body: Any) -> Any:
        """The API's answer to a POST."""
        answer = self.client.post(path, json=body, headers=self.csrf_headers())
        answer.raise_for_status()
        return answer.json()

    def csrf_headers(self) -> dict[str, str]:
        """What a request that changes something must bring along."""
        token = self.client.get("/csrf-token", params={"client": "tests"}).json()["token"]
        return {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "tests"}

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """A deployment's runs, the newest first: "pipeline/sofas"."""
        flow, _, name = deployment.partition("/")
        found: list[dict[str, Any]] = self.ask(
            "/flow_runs/filter",
            flows={"name": {"any_": [flow]}},
            deployments={"name": {"any_": [name]}},
            sort="EXPECTED_START_TIME_DESC",
        )
        return found

    def states(self, run_id: str) -> list[str]:
        """The names of a run's states from its beginning on."""
        answer = self.client.get("/flow_run_states/", params={"flow_run_id": run_id})
        return [state["name"] for state in sorted(answer.json(), key=lambda state: state["timestamp"])]

    def artifacts(self) -> dict[str, Any]:
        """The newest of each key: its data."""
        return {found["key"]: found["data"] for found in self.ask("/artifacts/latest/filter", limit=200)}

    def said(self) -> str:
        """The newest lines of all logs."""
        return "\n".join(line["message"] for line in self.ask("/logs/filter", sort="TIMESTAMP_DESC", limit=200))

    def close(self) -> None:
        """All that was started ends."""
        self.client.close()
        for process in reversed(self._started):
            kill(process)


def parameter(name: str, value: Any) -> list[str]:
    """As `prefect deployment run` takes it."""
    return ["--param", f"{name}={json.dumps(value)}"]


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to it and to all its children, in whatever sessions, as when a machine is lost."""
    if process.poll() is not None:
        return
    for pid in [*_children(process.pid), process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listed.splitlines())}
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def free_port() -> int:
    """Nobody listens there now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    """Whether all is well there."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def wait_for(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)
