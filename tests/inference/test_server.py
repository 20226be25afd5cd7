"""The real application behind a real uvicorn on the loopback, asked over real sockets."""

import io
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hostile_images import bomb
from memory import resident_mib
from PIL import Image
from tiny_model import EDITS, noise, properties, write_model

from inference.runtime import ModelFileError, Translator
from inference.server.app import create_app
from inference.server.batcher import BatchingTranslator
from inference.server.limits import Limits
from inference.server.models import ServerError
from inference.server.run import listen, make_server
from inference.server.served import load_models

SMALL = Limits(max_bytes=300_000, max_pixels=100_000)


@contextmanager
def running(translators: Mapping[str, Translator], limits: Limits = SMALL, token: str | None = None) -> Iterator[Any]:
    """A server in a thread -> a client for it, with the server itself as `.server`."""
    listener = listen("127.0.0.1", 0)
    server = make_server(create_app(translators, limits, token))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    port = listener.getsockname()[1]
    thread.start()
    # None is kept for another request: the pool may close one as too old that another thread has just been given.
    limit = httpx.Limits(max_connections=500, max_keepalive_connections=0)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False, limits=limit) as client:
        client.server = server  # type: ignore[attr-defined]
        client.port = port  # type: ignore[attr-defined]
        try:
            assert client.get("/healthz").json() == {"status": "ok"}
            yield client
        finally:
            server.should_exit = True
            thread.join(90)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties(name="rooms", licence="mit"))


@pytest.fixture(scope="module")
def translator(model: Path) -> Translator:
    return Translator.load(model, num_threads=1)


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[Any]:
    with running({"rooms": BatchingTranslator.load(model, num_threads=1)}) as client:
        yield client


def encoded(image: Any, format_: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format_, **options)
    return buffer.getvalue()


def decoded(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(response.content))
    image.load()
    return image


IMAGE = encoded(noise(60, 90))
RED = {"edit": "red leather"}
PNG = {"Content-Type": "image/png"}


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (61, 97), (300, 250)])
def test_the_answer_is_the_translators_however_it_is_asked(client, translator, size):
    array = noise(*size)
    picture = encoded(array)
    expected = translator(array, "blue fabric", 0.5)
    fields = {"edit": "blue fabric", "strength": "0.5"}
    for response in (
        client.post("/v1/translate", params=fields, content=picture, headers=PNG),
        client.post("/v1/translate", params=fields | {"model": "rooms"}, content=picture),
        client.post("/v1/translate", data=fields, files={"image": picture}),
        client.post("/v1/translate", params=fields, files={"image": ("x.bin", picture, "application/octet-stream")}),
        client.post("/v1/translate", params={"strength": "9", "edit": "?"}, data=fields, files={"image": picture}),
        client.post("/v1/translate", params=fields, content=iter([picture[:9], picture[9:]]), headers=PNG),  # chunked
    ):
        assert np.array_equal(decoded(response), expected)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_is_read(client, translator, format_):
    picture = encoded(noise(50, 40), format_)
    expected = translator(Image.open(io.BytesIO(picture)), "red leather")
    edited = decoded(client.post("/v1/translate", params=RED, content=picture, headers={"Content-Type": "image/x"}))
    assert np.array_equal(edited, expected)


def test_alpha_profile_and_orientation_are_as_in_the_runtime(client, translator):
    image = Image.fromarray(np.dstack([noise(30, 40), noise(30, 40)[..., 0]]))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = encoded(image, icc_profile=b"a profile", exif=exif)
    edited = decoded(client.post("/v1/translate", params=RED, content=picture))
    assert edited.mode == "RGBA" and edited.size == (30, 40)
    assert edited.info["icc_profile"] == b"a profile"
    assert np.array_equal(edited, translator(Image.open(io.BytesIO(picture)), "red leather"))


def test_what_is_served_can_be_read(client):
    assert client.get("/v1/models").json() == {
        "models": [
            {
                "name": "rooms",
                "edits": EDITS,
                "about": {"teacher": "none", "licence": "mit", "training_size": 64},
                "digest": None,
            }
        ]
    }
    schema = client.get("/openapi.json").json()
    operation = schema["paths"]["/v1/translate"]["post"]
    assert {"200", "401", "408", "413", "415", "422", "429", "503"} <= set(operation["responses"])
    assert list(operation["responses"]["200"]["content"]) == ["image/png"]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["model", "edit", "strength"]
    assert {"multipart/form-data", "image/*"} <= set(operation["requestBody"]["content"])
    assert client.get("/docs").status_code == 200


REFUSED: dict[str, tuple[int, str, dict[str, Any]]] = {
    "no edit": (422, "edit: Field required", {"content": IMAGE}),
    "wrong edit": (422, "did you mean 'red leather'", {"content": IMAGE, "params": {"edit": "red lether"}}),
    "long edit": (422, "edit: String should have at most 200", {"content": IMAGE, "params": {"edit": "x" * 201}}),
    "wrong model": (
        422,
        "unknown model 'room': did you mean 'rooms'? there is 'rooms'",
        {"content": IMAGE, "params": RED | {"model": "room"}},
    ),
    "strength nan": (422, "strength: ", {"content": IMAGE, "params": RED | {"strength": "nan"}}),
    "strength inf": (422, "strength: ", {"content": IMAGE, "params": RED | {"strength": "1e999"}}),
    "strength word": (422, "strength: ", {"content": IMAGE, "params": RED | {"strength": "much"}}),
    "strength 11": (422, "strength: ", {"content": IMAGE, "params": RED | {"strength": "11"}}),
    "unknown field": (422, "strenght: ", {"content": IMAGE, "params": RED | {"strenght": "1"}}),
    "empty": (422, "there is no image", {"params": RED}),
    "cut": (422, "cannot be read as an image", {"content": IMAGE[:5000], "params": RED}),
    "form without image": (422, "no file in a field `image`", {"files": {"picture": IMAGE}, "params": RED}),
    "image as text": (422, "no file in a field", {"data": {"image": "x"}, "files": {"a": b""}, "params": RED}),
    "two files": (422, "Too many files", {"files": [("image", IMAGE), ("image", IMAGE)], "params": RED}),
    "many fields": (
        422,
        "Too many fields",
        {"files": {"image": IMAGE}, "data": {str(i): "x" for i in range(9)}, "params": RED},
    ),
    "no boundary": (
        422,
        "Missing boundary",
        {"content": IMAGE, "headers": {"Content-Type": "multipart/form-data"}, "params": RED},
    ),
    "mode I": (
        422,
        "numbers from -1 to -1, which is not a range of images",
        {"content": encoded(Image.new("I", (9, 9), -1), "TIFF"), "params": RED},
    ),
    "json": (415, "send the image as multipart", {"json": {}, "params": RED}),
    "urlencoded": (415, "send the image as multipart", {"data": RED}),
    "no image": (415, "no image, or in none of the formats PNG", {"content": b"hello", "params": RED}),
    "a format not read": (415, "none of the formats", {"content": encoded(noise(9, 9), "PPM"), "params": RED}),
    "bytes": (413, "larger than 300000 bytes", {"content": b"x" * 300_001, "params": RED}),
    "bytes, length unknown": (413, "larger than", {"content": iter([b"x" * 50_000] * 7), "params": RED}),
    "bytes in a form": (413, "larger than", {"files": {"image": b"x" * 300_001}, "params": RED}),
    "pixels": (
        413,
        "400x251 are more than 100000 pixels",
        {"content": encoded(Image.new("L", (400, 251))), "params": RED},
    ),
    "bomb": (413, "more than 100000 pixels", {"content": bomb(30_000, 30_000), "params": RED}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_has_its_status_and_one_line(client, name):
    status, message, request = REFUSED[name]
    if name == "bytes, length unknown":
        request = request | {"content": iter([b"x" * 50_000] * 7)}
    response = client.post("/v1/translate", **request)
    assert response.status_code == status
    assert list(response.json()) == ["detail"]
    assert message in response.json()["detail"]
    assert "\n" not in response.json()["detail"]


def test_other_paths_and_methods(client):
    assert client.get("/v1/translate").status_code == 405
    assert client.get("/v1/absent").status_code == 404


def test_without_a_name_one_of_several_models_is_not_guessed(model):
    models = {name: Translator.load(model, num_threads=1) for name in ("a", "b")}
    with running(models) as client:
        assert [entry["name"] for entry in client.get("/v1/models").json()["models"]] == ["a", "b"]
        refused = client.post("/v1/translate", params=RED, content=IMAGE)
        assert refused.status_code == 422
        assert refused.json()["detail"] == "no model is named: there is 'a', 'b'"
        assert client.post("/v1/translate", params=RED | {"model": "b"}, content=IMAGE).status_code == 200


def test_a_token_guards_all_but_health(model):
    with running({"rooms": Translator.load(model, num_threads=1)}, token="s3cret-s3cret-s3cret") as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic s3cret-s3cret-s3cret"},
            {"Authorization": ""},
        ):
            for response in (
                client.post("/v1/translate", params=RED, content=IMAGE, headers=headers),
                client.get("/v1/models", headers=headers),
            ):
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == "Bearer"
                assert "token" in response.json()["detail"]
        good = {"Authorization": "Bearer s3cret-s3cret-s3cret"}
        assert client.post("/v1/translate", params=RED, content=IMAGE, headers=good).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_wrong_set_ups_are_refused(model, tmp_path):
    for token in ("", "two words", "schlüssel", "line\nbreak"):
        with pytest.raises(ServerError, match="token is empty or has spaces"):
            create_app({"rooms": Translator.load(model)}, token=token)
    with pytest.raises(ServerError, match="no model to serve"):
        create_app({})
    with pytest.raises(ServerError, match=r"two of the models are called rooms: name them anew, as in other="):
        load_models([str(model), str(model)])
    with pytest.raises(ModelFileError, match=r"no model file at .*absent.onnx"):
        load_models([str(tmp_path / "absent.onnx")])
    models = load_models([str(model), f"other={model}"], ["cpu"])
    assert list(models) == ["rooms", "other"]
    for translator in models.values():
        translator.close()
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"cannot listen on 127.0.0.1 port {port}: "):
            listen("127.0.0.1", port)


class Gated(BatchingTranslator):
    """A translator whose network stands still until the gate opens."""

    gate: threading.Event
    entered: threading.Event

    def _difference(self, images: Any, edits: Any, strengths: Any) -> Any:
        self.entered.set()
        assert self.gate.wait(60)
        return super()._difference(images, edits, strengths)


def gated(model: Path) -> Gated:
    translator = Gated.load(model, num_threads=1)
    translator.gate, translator.entered = threading.Event(), threading.Event()
    return translator


def until(condition: Any, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_images_of_one_size_share_a_pass(model, monkeypatch):
    translator = BatchingTranslator.load(model, num_threads=1)
    session, batches = translator._session, []

    class Slow:
        def run(self, names: Any, feeds: Any) -> Any:
            batches.append(feeds["image"].shape)
            time.sleep(0.1)
            return session.run(names, feeds)

    monkeypatch.setattr(translator, "_session", Slow())
    plain = Translator.load(model, num_threads=1)
    with running({"rooms": translator}) as client, ThreadPoolExecutor(16) as pool:
        arrays = [noise(64, 64 if i % 2 else 128, i) for i in range(16)]
        edited = pool.map(
            lambda array: decoded(client.post("/v1/translate", params=RED, content=encoded(array))), arrays
        )
        for array, image in zip(arrays, edited, strict=True):
            assert np.array_equal(image, plain(array, "red leather"))
    assert sum(shape[0] for shape in batches) == 16
    assert len(batches) <= 10
    assert len({shape[1:] for shape in batches}) == 2


def test_a_full_line_is_429_and_a_long_wait_503(model):
    translator = gated(model)
    limits = Limits(max_in_work=1, max_waiting=2, waiting_s=5)
    with running({"rooms": translator}, limits) as client, ThreadPoolExecutor(8) as pool:

        def ask() -> httpx.Response:
            return client.post("/v1/translate", params=RED, content=IMAGE)

        first = pool.submit(ask)
        assert translator.entered.wait(60)
        others = [future.result() for future in [pool.submit(ask) for _ in range(6)]]
        translator.gate.set()
        assert first.result().status_code == 200
        assert sorted(response.status_code for response in others) == [429] * 4 + [503] * 2
        for response in others:
            assert response.headers["retry-after"] == "1"
            assert "try again" in response.json()["detail"]
        assert ask().status_code == 200


def flood(client: Any, num_requests: int) -> list[int]:
    arrays = [noise(64, 64, seed) for seed in range(4)]
    pictures = [encoded(array) for array in arrays]

    def ask(i: int) -> int:
        response = client.post("/v1/translate", params=RED, content=pictures[i % 4])
        if response.status_code == 200:
            assert np.array_equal(np.asarray(decoded(response))[:, 32:], arrays[i % 4][:, 32:])
        else:
            assert "detail" in response.json()
        return response.status_code

    with ThreadPoolExecutor(num_requests) as pool:  # all at once
        return list(pool.map(ask, range(num_requests)))


def test_a_flood_is_answered_and_leaves_no_memory_behind(model):
    limits = Limits(max_in_work=4, max_waiting=40)
    with running({"rooms": BatchingTranslator.load(model, num_threads=1)}, limits) as client:
        flood(client, 500)
        before = resident_mib()
        for _ in range(2):
            statuses = flood(client, 500)
            assert len(statuses) == 500
            assert set(statuses) <= {200, 429, 503}
            assert statuses.count(200) >= 44
        assert resident_mib() - before < 20


def request_head(port: int, length: int) -> bytes:
    return (
        f"POST /v1/translate?edit=red+leather HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def test_slow_uploads_are_cut_off_and_hold_up_nobody(model):
    limits = Limits(upload_s=5)
    with running({"rooms": BatchingTranslator.load(model, num_threads=1)}, limits) as client:
        slow = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(20)]
        for connection in slow:
            connection.sendall(request_head(client.port, len(IMAGE)) + IMAGE[:100])
        assert client.post("/v1/translate", params=RED, content=IMAGE).status_code == 200
        for connection in slow:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):  # still uploading when the other has its answer
                connection.recv(1)
        for connection in slow:
            connection.settimeout(60)
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
            connection.close()
        assert client.post("/v1/translate", params=RED, content=IMAGE).status_code == 200


def test_a_client_that_goes_away_costs_nobody_else(model):
    translator = gated(model)
    with running({"rooms": translator}, Limits(max_in_work=1)) as client, ThreadPoolExecutor(1) as pool:
        for length in (len(IMAGE), len(IMAGE) + 1):  # while it waits for its turn, and within the upload
            for _ in range(5):
                with socket.create_connection(("127.0.0.1", client.port)) as connection:
                    connection.sendall(request_head(client.port, length) + IMAGE)
        last = pool.submit(client.post, "/v1/translate", params=RED, content=IMAGE)
        translator.gate.set()
        assert last.result().status_code == 200


def test_a_client_that_does_not_read_is_let_go(model):
    limits = Limits(max_requests=1, send_s=0.5)
    with running({"rooms": BatchingTranslator.load(model, num_threads=1)}, limits) as client:
        picture = encoded(noise(1500, 1500))
        connection = socket.create_connection(("127.0.0.1", client.port))
        connection.sendall(request_head(client.port, len(picture)) + picture)
        until(lambda: client.post("/v1/translate", params=RED, content=IMAGE).status_code == 429)
        until(lambda: client.post("/v1/translate", params=RED, content=IMAGE).status_code == 200)
        connection.close()


def test_a_shutdown_answers_what_was_accepted(model):
    translator = gated(model)
    with running({"rooms": translator}, Limits(max_in_work=2)) as client, ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(client.post, "/v1/translate", params=RED, content=IMAGE) for _ in range(6)]
        until(lambda: len(client.server.server_state.tasks) == 6)
        client.server.should_exit = True
        time.sleep(0.3)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{client.port}/healthz", trust_env=False)
        translator.gate.set()
        assert [future.result().status_code for future in asked] == [200] * 6
    with pytest.raises(RuntimeError, match="closed"):
        translator(noise(8, 8), "red leather")


def garbled(rng: random.Random) -> dict[str, Any]:
    """A request that is wrong in some ways, by chance in none."""
    body = bytearray(
        IMAGE if rng.random() < 0.5 else encoded(noise(9, 9), rng.choice(["JPEG", "GIF", "WEBP", "TIFF"]))
    )
    for _ in range(rng.choice([0, 0, 1, 10])):
        body[rng.randrange(min(len(body), rng.choice([40, 10_000])))] = rng.randrange(256)
    content = bytes(body[: rng.choice([len(body), rng.randrange(len(body))])])
    kind = rng.choice(
        ["image/png", "IMAGE/GIF; a=b", "application/octet-stream", "text/plain", "", ";", "multipart/form-data"]
    )
    if rng.random() < 0.5:
        boundary = rng.choice(["b", "b" * 70, "ü", '"b"', ""])
        name = rng.choice(["image", "image", "edit", "", 'a"b', "ü"])
        disposition = rng.choice(
            [f'form-data; name="{name}"; filename="x"', f'form-data; name="{name}"', "", "form-data"]
        )
        parts = [
            f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content,
            f'--{boundary}\r\nContent-Disposition: form-data; name="strength"\r\n\r\n{rng.random()}'.encode(),
        ]
        rng.shuffle(parts)
        content = b"\r\n".join([*parts, f"--{boundary}--\r\n".encode()])
        for _ in range(rng.choice([0, 0, 1, 4])):
            cut = rng.randrange(len(content))
            content = content[:cut] + rng.randbytes(rng.randrange(4)) + content[cut + rng.randrange(3) :]
        kind = f"multipart/form-data; boundary={boundary}"
    texts = ["red leather", "", "\0", "ü" * 50, "x" * 5000, "nan", "-1", "1e400", "[]", "null", "%", "rooms"]
    params = {key: rng.choice(texts) for key in ("edit", "strength", "model", "a") if rng.random() < 0.4}
    if rng.random() < 0.7:
        params["edit"] = "red leather"
    headers = {"Content-Type": kind.encode("latin-1")}
    if rng.random() < 0.1:
        headers["Content-Encoding"] = b"gzip"
    return {"content": content, "params": params, "headers": headers}


def raw_garbage(rng: random.Random, port: int) -> bytes:
    """A request that breaks HTTP itself."""
    head = request_head(port, rng.choice([len(IMAGE), 0, 10**30])).replace(b"Content-Length", rng.choice(
        [b"Content-Length", b"content-length: 3\r\nContent-Length", b"Transfer-Encoding", b"Content-Length : 1\r\nX"]
    ))  # fmt: skip
    message = bytearray(head + IMAGE)
    for _ in range(rng.randrange(8)):
        message[rng.randrange(len(head))] = rng.randrange(256)
    return bytes(message[: rng.randrange(1, len(message))])


def ask_badly(client: Any, num_requests: int) -> dict[int, int]:
    """Many wrong requests -> how often each status came; a server error or silence fails."""
    rng = random.Random(0)
    seen: dict[int, int] = {}
    for _ in range(num_requests):
        if rng.random() < 0.1:
            with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
                connection.sendall(raw_garbage(rng, client.port))
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(100)
            status = int(answer.split()[1]) if answer else 0  # 0: hung up on, as half a request may be
        else:
            response = client.post("/v1/translate", **garbled(rng))
            status = response.status_code
            assert status == 200 or re.fullmatch(r'\{"detail":".+"\}', response.text), response.text
        assert status in (0, 200, 400, 404, 405, 413, 415, 421, 422), status
        seen[status] = seen.get(status, 0) + 1
    assert client.post("/v1/translate", params=RED, content=IMAGE).status_code == 200
    return seen


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # what Pillow says about the broken images
def test_malformed_requests_are_refused(client):
    seen = ask_badly(client, 200)
    assert {200, 400, 415, 422} <= set(seen)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_ten_thousand_malformed_requests_are_refused(client):
    """Takes minutes: `python -m pytest tests/inference/test_server.py -m slow`."""
    ask_badly(client, 1000)
    before = resident_mib()
    seen = ask_badly(client, 9000)
    assert {200, 400, 415, 422} <= set(seen)
    assert resident_mib() - before < 20


def test_it_needs_no_other_room():
    code = (
        "import sys, inference.server.run, inference.server.app\n"
        "rooms = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(rooms & {'torch', 'diffusers', 'onnx', 'prefect', 'distill', 'flows'}))\n"
        "synth = {name for name in sys.modules if name.startswith('synth.')}\n"
        "images = {'synth.images', *(f'synth.images.{name}' for name in ('enlargement', 'reader', 'writer'))}\n"
        "print(*sorted(synth - images - {'synth.telemetry'}))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == ""


def test_the_schema_is_plain_json(client):
    assert json.loads(client.get("/openapi.json").content)["openapi"].startswith("3.")
