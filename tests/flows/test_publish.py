"""Publishing, against a stand-in that speaks as much of the Hub's protocol as an upload needs."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_page import exported_run

from flows.publish import publish
from synth.errors import RunError

TOKEN = "hf_standin"


class Hub(ThreadingHTTPServer):
    """Keeps what was committed: repository -> path -> bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.created: dict[str, Any] = {}


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            asked = self.server.created = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.repositories.setdefault(f"{asked.get('type') or 'model'}s/{name}", {})
            prefix = "datasets/" if asked.get("type") == "dataset" else ""
            self._answer(200, {"url": f"http://{self.headers['Host']}/{prefix}{name}"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif "/commit/" in self.path:
            kept = self.server.repositories[self.path.removeprefix("/api/").partition("/commit/")[0]]
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(
                200,
                {"commitUrl": f"http://{self.headers['Host']}/me/x/commit/1", "commitOid": "1" * 40, "success": True},
            )
        else:
            self._answer(404, {"error": self.path})

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self._answer(200, {"sha": "0" * 40, "id": "me/x", "siblings": []})

    def _answer(self, status: int, content: Any) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def distillery(hub: Hub, *arguments: str | Path, token: str = TOKEN) -> "subprocess.CompletedProcess[str]":
    """In a process of its own: huggingface_hub reads its address when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": token}
    environment.pop("HF_HUB_OFFLINE", None)
    program = "import sys; from flows.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_run_goes_up_with_its_card_and_nothing_else(hub: Hub, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    ran = distillery(hub, "publish", run, "--to", "hf://me/sofas")
    assert ran.returncode == 0, ran.stderr
    sent = hub.repositories["models/me/sofas"]
    assert {"README.md", "model.onnx", "recipe.toml", "student/config.json"} <= set(sent)
    assert not [path for path in sent if path.startswith(("checkpoints", "dataset", "latents", "metrics"))]
    assert sent["model.onnx"] == (run / "model.onnx").read_bytes()
    _, header, card = sent["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(header)["pipeline_tag"] == "image-to-image"
    assert 'Translator.load("hf://me/sofas")' in card
    assert "| `red-leather` |" in card


def test_a_set_goes_up_whole(hub: Hub, finished: Path) -> None:
    ran = distillery(hub, "publish", finished / "dataset", "--to", "hf://datasets/me/rooms")
    assert ran.returncode == 0, ran.stderr
    sent = hub.repositories["datasets/me/rooms"]
    shard = finished / "dataset" / "data" / "train-00000.parquet"
    assert sent["data/train-00000.parquet"] == shard.read_bytes()
    assert "README.md" in sent and "preview.html" in sent


def test_a_page_goes_up_as_a_static_space(hub: Hub, tmp_path: Path) -> None:
    from inference.server.web import fetch

    run = exported_run(tmp_path / "run")
    ran = distillery(hub, "publish", run, "--to", "hf://me/sofas", "--space")
    if not fetch.is_there():
        assert ran.returncode == 2 and "`make web` in the project puts it there" in ran.stderr
        assert not hub.repositories
        return
    assert ran.returncode == 0, ran.stderr
    (name,) = hub.repositories
    assert name == "spaces/me/sofas" and hub.created["sdk"] == "static"
    sent = hub.repositories[name]
    (model,) = json.loads(sent["models.json"])
    assert sent[model["file"]] == (run / "model.onnx").read_bytes()
    assert {"index.html", "vendor/ort-wasm-simd-threaded.wasm", "grid.png"} <= set(sent)
    assert b"https://huggingface.co/me/sofas" in sent["README.md"]


def test_a_dataset_is_no_space(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is a dataset, and a Space shows a model: write hf://me/x"):
        publish(tmp_path, "hf://datasets/me/x", as_space=True)


def test_a_refusal_is_one_line(hub: Hub, finished: Path) -> None:
    ran = distillery(hub, "publish", finished / "dataset", "--to", "hf://datasets/me/rooms", token="hf_wrong")
    assert ran.returncode == 2
    assert len(ran.stderr.strip().splitlines()) == 1
    assert "log in with `hf auth login`" in ran.stderr
    assert not hub.repositories


def test_nothing_is_sent_that_will_not_do(tmp_path: Path) -> None:
    for to in ("me/x", "hf://me", "hf://spaces/me/x/y"):
        with pytest.raises(RunError, match="not an address on the Hub"):
            publish(tmp_path, to)
    with pytest.raises(RunError, match="is not a dataset"):
        publish(tmp_path, "hf://datasets/me/x")
    with pytest.raises(RunError, match="is not a run folder"):
        publish(tmp_path, "hf://me/x")
