"""`distillery serve`: from a listening line to a clean stop, and what it refuses."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from small_runs import command


def test_serve_answers_until_it_is_stopped(model: Path) -> None:
    import httpx

    program = "import sys; from flows.cli import main; main(sys.argv[1:])"
    arguments = [sys.executable, "-c", program, "serve", f"rooms={model}", "--port", "0", "--provider", "cpu"]
    environment = os.environ | {"DISTILLERY_TOKEN": "a-secret-of-16-letters"}
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        assert server.stderr.readline() == "rooms: red leather, blue fabric (on CPUExecutionProvider)\n"
        found = re.match(r"listening on (http://127\.0\.0\.1:\d+)[ ;]", server.stderr.readline())
        assert found
        headers = {"Authorization": "Bearer a-secret-of-16-letters"}
        with httpx.Client(base_url=found[1], trust_env=False, timeout=60) as client:
            assert client.get("/v1/models").status_code == 401
            assert client.get("/v1/models", headers=headers).json()["models"][0]["name"] == "rooms"
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert server.stderr.read().endswith("stopped\n")


def test_serve_refuses_in_one_line(model: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ([tmp_path / "absent.onnx", "--port", "0"], "no model file at"),
        ([tmp_path / "absent.latest.json", "--port", "0"], "absent.latest.json cannot be read"),
        ([model, model, "--port", "0"], "two of the models are called rooms"),
        ([model, "--port", "0", "--token", ""], "the token is empty"),
        ([model, "--port", "0", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1 port 0"),
    ):
        result = command("serve", *arguments)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        assert message in result.stderr


def test_serve_names_the_extra_that_it_needs(model: Path) -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(['fastapi', 'uvicorn']));"
    program = f"{absent} from flows.cli import main; main(['serve', {str(model)!r}])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert 'pip install "dds-distillery[serve]"' in ran.stderr


@pytest.mark.parametrize("verb", ["serve", "translate", "inspect"])
def test_a_model_that_lies_elsewhere_is_one_line(verb: str, tmp_path: Path) -> None:
    """It says what to copy; the pointer of another machine names the folder and the command that downloads it."""
    Image.new("RGB", (64, 64), "white").save(tmp_path / "room.png")
    more = {"translate": [tmp_path / "room.png", "--edit", "x", "--out", tmp_path / "out"], "serve": ["--port", "0"]}
    pointer = tmp_path / "rooms.latest.json"
    pointer.write_text('{"model": "rooms-3f9a/model.onnx"}')
    folder = "copy the pointer and the folder that it names, side by side"
    for location, message in (
        (
            "s3://bucket/runs/rooms.latest.json",
            f"s3://bucket/runs/rooms.latest.json is not on this machine.*{folder}",
        ),
        ("hf://me/x/rooms.latest.json", f"hf://me/x/rooms.latest.json is not on this machine.*{folder}"),
        ("https://me:secret@host/model.onnx", "https://[*]{3}@host/model.onnx is not on this machine.*copy the file"),
        (str(pointer), f"names rooms-3f9a/model.onnx, which is not on.*--out {tmp_path / 'rooms-3f9a'}`, downloads"),
    ):
        result = command(verb, location, *more.get(verb, []))
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.stderr
        assert re.search(message, result.stderr), result.stderr
    assert not (tmp_path / "out").exists()


def test_a_pointer_is_a_model_for_every_verb(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.onnx").write_bytes(model.read_bytes())
    pointer = tmp_path / "rooms.latest.json"
    pointer.write_text('{"model": "a/model.onnx"}')
    assert command("inspect", pointer, "--json").output == command("inspect", model, "--json").output
    Image.new("RGB", (64, 64), "white").save(tmp_path / "room.png")
    result = command("translate", pointer, tmp_path / "room.png", "--edit", "red leather", "--out", tmp_path / "out")
    assert result.exit_code == 0 and list((tmp_path / "out").glob("room_red*.png")), result.output
    pointer.write_text('{"model": "../a/model.onnx"}')
    for verb in (["inspect", pointer], ["translate", pointer, tmp_path / "room.png", "--edit", "red leather"]):
        result = command(*verb)
        assert result.exit_code == 2 and "which is not RUN/model.onnx beside it" in result.stderr
