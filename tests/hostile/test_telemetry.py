"""Nothing calls home: every entry point, as a new user would start it, with a proxy that records all calls.

ONNX Runtime sends its first events some ten seconds after its import. The quick tests look for what it writes at once
without the switch, a device id in the user's cache. The slow ones wait for the calls themselves.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from listening_proxy import ListeningProxy, listening_proxy
from PIL import Image
from small_runs import SMALL
from tiny_model import noise, properties, write_model
from workplace import answers, free_port, wait_for

from synth.telemetry import TELEMETRY_OFF

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "python_onnxruntime.py"
NODE = ROOT / "examples" / "node_onnxruntime" / "translate.mjs"
COMMAND = "from flows.cli import main; main()"
LOAD = "Translator.load('model.onnx', num_threads=1)('room.png', 'red leather').save('edited.png')"
FIRST_CALL_SECONDS = 20  # the first call came 9.5 s after the import


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model file, an image, and a copy of the runtime."""
    write_model(tmp_path / "model.onnx", properties())
    Image.fromarray(noise(64, 64)).save(tmp_path / "room.png")
    shutil.copy(ROOT / "inference" / "runtime.py", tmp_path / "copied.py")
    return tmp_path


def python(proxy: ListeningProxy, folder: Path, *arguments: str | Path, **variables: str) -> None:
    """Run Python in `folder`, with an empty home beside it."""
    environment = {**proxy.environment(folder / "home"), "PYTHONPATH": str(ROOT), **variables}
    (folder / "home").mkdir(exist_ok=True)
    ended = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def traces(folder: Path) -> list[Path]:
    """What ONNX Runtime's telemetry leaves in the user's home."""
    return list((folder / "home").rglob("deviceid"))


TRANSLATE = ["-c", COMMAND, "translate", "model.onnx", "room.png", "--edit", "red leather", "--out", "edited"]
WAYS = {
    "the runtime": ["-c", f"from inference.runtime import Translator; {LOAD}"],
    "the copied runtime": ["-c", f"from copied import Translator; {LOAD}"],
    "translate": TRANSLATE,
    "inspect": ["-c", COMMAND, "inspect", "model.onnx"],
    "the Python example": [str(EXAMPLE), "model.onnx", "room.png", "red leather", "edited.png"],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_model_file_runs_in_silence(way: str, folder: Path) -> None:
    with listening_proxy() as proxy:
        python(proxy, folder, *WAYS[way])
        assert proxy.calls == [] and traces(folder) == []


def test_the_users_own_setting_wins(folder: Path) -> None:
    """This also shows that the other tests would find a trace."""
    with listening_proxy() as proxy:
        python(proxy, folder, *WAYS["the runtime"], ORT_DISABLE_TELEMETRY="0")
        assert len(traces(folder)) == 1


def test_the_server_is_silent(folder: Path) -> None:
    port = free_port()
    (folder / "home").mkdir()
    with listening_proxy() as proxy:
        environment = {**proxy.environment(folder / "home"), "PYTHONPATH": str(ROOT)}
        serve = [sys.executable, "-c", COMMAND, "serve", "model.onnx", "--port", str(port)]
        with subprocess.Popen(serve, cwd=folder, env=environment, stderr=subprocess.DEVNULL) as server:
            try:
                wait_for(lambda: answers(f"http://127.0.0.1:{port}/healthz"), "the server", 60)
                url = f"http://127.0.0.1:{port}/v1/translate?edit=red%20leather"
                assert httpx.post(url, content=(folder / "room.png").read_bytes()).status_code == 200
            finally:
                server.terminate()
        assert proxy.calls == [] and traces(folder) == []


@pytest.mark.parametrize("package", ["synth", "distill", "inference", "flows"])
def test_every_package_is_silent_before_anything_heavy(package: str) -> None:
    """Each package turns telemetry off, whichever is imported first, and imports nothing heavy."""
    program = (
        f"import os, sys, {package}; heavy = {{'torch', 'prefect', 'onnxruntime', 'huggingface_hub', 'ray'}};"
        f"assert not heavy & set(sys.modules); print(*map(os.environ.get, {list(TELEMETRY_OFF)}))"
    )
    clean = {name: value for name, value in os.environ.items() if name not in TELEMETRY_OFF}
    environment = {**clean, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == list(TELEMETRY_OFF.values())


def test_no_module_imports_onnxruntime_before_the_switch() -> None:
    """Examples and benchmarks, which start outside the packages, set the variable above their first import."""
    for program in [*(ROOT / "examples").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        lines = program.read_text().splitlines()
        heavy = [
            number for number, line in enumerate(lines) if line.startswith(("import onnxruntime", "from onnxrun"))
        ]
        switch = [number for number, line in enumerate(lines) if "ORT_DISABLE_TELEMETRY" in line]
        assert not heavy or (switch and switch[0] < heavy[0]), program.name
    node = NODE.read_text()
    assert node.index("process.env.ORT_DISABLE_TELEMETRY") < node.index('onnxruntime-node")')
    assert 'from "onnxruntime-node"' not in node  # it would run before any other line


@pytest.mark.slow
def test_onnxruntime_calls_home_only_without_the_switch(folder: Path) -> None:
    """This shows that the proxy would hear a call: `python -m pytest -m slow tests/hostile`."""
    patient = f"import time; from inference.runtime import Translator; {LOAD}; time.sleep({FIRST_CALL_SECONDS})"
    with listening_proxy() as proxy:
        python(proxy, folder, "-c", patient)
        assert proxy.calls == []
        python(proxy, folder, "-c", patient, ORT_DISABLE_TELEMETRY="0")
        assert any("events" in call for call in proxy.calls)


@pytest.mark.slow
def test_a_whole_run_is_silent(folder: Path, tiny_sd_folder: Path) -> None:
    """Paint, distil, export and measure, with Prefect's private server."""
    overrides = [argument for override in SMALL for argument in ("--set", override)]
    run = ["run", "sofas", "--teacher", str(tiny_sd_folder), *overrides, "--out", "run"]
    with listening_proxy() as proxy:
        started = time.monotonic()
        python(proxy, folder, "-c", COMMAND, *run)
        assert time.monotonic() - started > FIRST_CALL_SECONDS  # otherwise there was no time to call
        assert proxy.calls == [] and traces(folder) == []
