"""What clients, pages of other sites and files from somebody else try on the server; each was seen to work once."""

import errno
import hashlib
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from PIL import Image
from tiny_model import noise, properties, write_model

from flows.cli.use.serve import serve
from inference.runtime import Translator
from inference.server.app import create_app
from inference.server.limits import BYTES_PER_PIXEL, MAX_DETAIL_BYTES, Limits, Refused
from inference.server.models import DIGEST_HEADER, ServerError
from inference.server.run import OneLineASecond, listen, make_server
from inference.server.served import load_models
from inference.server.transfers import Transfers
from synth.images.enlargement import apply_fit, fit_change
from synth.images.reader import read_image

RED = {"edit": "red leather"}
TOKEN = "a token of enough letters".replace(" ", "-")


def encoded(array: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = encoded(noise(60, 90))
WITH_SUPPORT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
LOSSLESS = {"WEBP": {"lossless": True, "quality": 0, "method": 0}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties(name="rooms"))


@contextmanager
def running(model: Path, limits: Limits | None = None, max_connections: int | None = None, **options: Any) -> Any:
    listener = listen("127.0.0.1", 0, max_connections)
    server = make_server(create_app(load_models([str(model)]), limits, **options))
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    limit = httpx.Limits(keepalive_expiry=None)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False, limits=limit) as client:
        try:
            client.server, client.port = server, port  # type: ignore[attr-defined]
            until(lambda: server.started)
            yield client
        finally:
            server.should_exit = True
            thread.join(60)
    assert not thread.is_alive()


def until(condition: Any, seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def connect(client: Any, message: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", client.port), timeout=20)
    connection.sendall(message)
    return connection


def answer_to(client: Any, message: bytes) -> bytes:
    """All that comes until the server closes."""
    with connect(client, message) as connection:
        parts = []
        while part := connection.recv(2**16):
            parts.append(part)
    return b"".join(parts)


def post_head(length: int, *lines: str) -> bytes:
    head = ["POST /v1/translate?edit=red+leather HTTP/1.1", "Host: 127.0.0.1", "Content-Type: image/png"]
    return "\r\n".join([*head, f"Content-Length: {length}", *lines, "", ""]).encode()


# --- connections ---------------------------------------------------------------------------------------------------


def test_connections_beyond_the_limit_get_a_503(model: Path) -> None:
    with running(model, max_connections=20) as client:
        assert client.get("/healthz").status_code == 200  # holds one
        idle = [connect(client) for _ in range(19)]
        for _ in range(40):
            answer = answer_to(client, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["detail"].startswith("too many connections")
        assert client.post("/v1/translate", params=RED, content=IMAGE).status_code == 200
        for connection in idle:
            connection.close()
        until(
            lambda: answer_to(client, b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").startswith(b"HTTP/1.1 200")
        )


def test_without_descriptors_it_still_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """accept() fails, as the kernel has it fail, whenever the spare descriptor has not been given up."""
    listener = listen("127.0.0.1", 0)
    real = socket.socket.accept
    monkeypatch.setattr(socket.socket, "accept", lambda self: _accept_with_spare_only(real, self))
    server = make_server(create_app(load_models([str(model)])))
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                assert connection.recv(2**16).startswith(b"HTTP/1.1 503 ")
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def _accept_with_spare_only(real: Any, listener: Any) -> Any:
    if listener._spare is not None:
        raise OSError(errno.EMFILE, "Too many open files")
    return real(listener)


def test_a_head_that_does_not_come_is_not_waited_for(model: Path) -> None:
    with running(model, Limits(head_s=0.5)) as client:
        assert answer_to(client, b"") == b""
        assert answer_to(client, b"GET / HTTP/1.1\r\nHo").startswith(b"HTTP/1.1 408 ")
        with connect(client, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") as connection:
            until(lambda: b"ok" in connection.recv(2**16))
            connection.sendall(b"GET /he")  # and the second one on the same connection
            time.sleep(0.3)
            connection.sendall(b"a")  # a byte now and then does not move the deadline
            assert b" 408 " in connection.recv(2**16)
        with connect(client, post_head(len(IMAGE))) as connection:  # a body may take longer than that
            time.sleep(0.8)
            connection.sendall(IMAGE)
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_the_log_gets_one_line_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("inference.server.run.time.monotonic", lambda: now)
    limit = OneLineASecond()
    lines = []
    for _ in range(30):  # a flood of three seconds
        record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, "no room: %d", (7,), None)
        if limit.filter(record):
            lines.append(record.getMessage())
        now += 0.1
    assert lines[0] == "no room: 7" and 2 <= len(lines) <= 4
    assert re.fullmatch(r"no room: 7 \(and \d+ lines more\)", lines[1])


def test_a_running_server_has_the_limit_on_its_log(model: Path) -> None:
    with running(model):
        for name in ("uvicorn.error", "asyncio"):
            assert any(isinstance(known, OneLineASecond) for known in logging.getLogger(name).filters)


def test_connections_set_tcp_nodelay(model: Path) -> None:
    with running(model) as client:
        client.get("/healthz")
        (connection,) = client.server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        begin = time.monotonic()
        for _ in range(20):
            client.get("/healthz")
        assert time.monotonic() - begin < 20 * 0.03  # 0.04 each where the body waits for an acknowledgement


# --- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [(1, 24_999_999, "longer than 16384"), (16_385, 1000, "longer than 16384"), (51, 1, "50 times the other")],
)
def test_sides_are_bounded_before_decoding(model: Path, width: int, height: int, message: str) -> None:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    app = create_app(load_models([str(model)]))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        begin = time.monotonic()
        answer = client.post("/v1/translate", params=RED, content=buffer.getvalue())
        assert answer.status_code == 413 and message in answer.json()["detail"]
        assert time.monotonic() - begin < 1
        assert client.post("/v1/translate", params=RED, content=encoded(noise(50, 1))).status_code == 200


def test_the_longest_image_is_translated_within_memory(model: Path) -> None:
    code = f"""
import time, numpy as np
from memory import peak_mib
from inference.runtime import Translator
translator = Translator.load({str(model)!r}, num_threads=1)
image = np.full((10_000_000, 1, 3), 100, np.uint8)
before = peak_mib()
begin = time.monotonic()
edited = translator(image, "red leather")
print(time.monotonic() - begin, peak_mib() - before)
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=WITH_SUPPORT
    ).stdout
    seconds, mib = map(float, output.split())
    assert seconds < 4
    assert mib < 250


@pytest.mark.parametrize(
    ("mode", "width", "height", "format_"),
    [
        ("RGB", 2500, 1600, "PNG"),
        ("RGBA", 2500, 1600, "PNG"),
        ("RGBA", 14_000, 282, "WEBP"),
        ("I;16", 282, 14_000, "PNG"),
    ],
)
def test_memory_is_as_the_limits_document_it(
    model: Path, tmp_path: Path, mode: str, width: int, height: int, format_: str
) -> None:
    values = np.random.default_rng(0).integers(0, 256, width * height * len(mode.replace("I;16", "I6")), np.uint8)
    path = tmp_path / "image"
    Image.frombytes(mode, (width, height), values.tobytes()).save(path, format_, **LOSSLESS.get(format_, {}))
    code = f"""
import io
from memory import peak_mib
from PIL import Image
from inference.runtime import Translator
from inference.server.app import _edit
from inference.server.limits import Limits, PixelBudget
from inference.server.uploads import Ask
limits = Limits()
translator, ask = Translator.load({str(model)!r}, num_threads=1), Ask(edit="red leather")
small = io.BytesIO()
Image.new({mode!r}, (64, 64)).save(small, {format_!r})
small.seek(0)
_edit(small, translator, ask, limits, PixelBudget(limits))
before = peak_mib()
_edit(open({str(path)!r}, "rb"), translator, ask, limits, PixelBudget(limits))
print((peak_mib() - before) * 2**20 / {width * height})
"""
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=WITH_SUPPORT
    ).stdout
    assert 5 < float(output) <= BYTES_PER_PIXEL, (mode, output)


def test_strips_join_without_a_seam() -> None:
    rgb, difference = noise(1500, 1100), np.random.default_rng(0).normal(0, 0.2, (3, 48, 40)).astype(np.float32)
    photo = read_image(Image.fromarray(rgb))
    fit = fit_change(difference, photo.reduced(48, 40))
    levels = apply_fit(fit, rgb, slice(0, 1500), slice(0, 1100), (1500, 1100))
    assert np.array_equal(photo.with_change(difference).pixels, np.rint(levels + rgb).clip(0, 255))


# --- slow clients --------------------------------------------------------------------------------------------------


def test_one_byte_uploads_lock_nobody_out(model: Path) -> None:
    with running(model, Limits(max_requests=6, patience_s=0.5)) as client:
        slow = [connect(client, post_head(len(IMAGE)) + b"x") for _ in range(6)]
        time.sleep(0.8)
        for _ in range(6):
            assert client.post("/v1/translate", params=RED, content=IMAGE).status_code == 200
        assert slow[0].recv(100).startswith(b"HTTP/1.1 408 ")
        for connection in slow:
            connection.close()


def test_an_upload_below_the_minimum_rate_is_cut_off(model: Path) -> None:
    with running(model, Limits(patience_s=-2.5)) as client:  # half a second before the rate counts
        begin = time.monotonic()
        assert answer_to(client, post_head(len(IMAGE)) + b"x" * 100).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - begin < 3


def test_answers_that_nobody_reads_hold_bounded_memory(model: Path) -> None:
    large = encoded(noise(1800, 1800))  # an answer of 9 MB
    limits = Limits(max_answer_bytes=20_000_000, patience_s=0.2, max_in_work=2)
    with running(model, limits) as client:
        message = post_head(len(large)) + large
        readers = [connect(client, message) for _ in range(6)]
        time.sleep(1)
        until(lambda: client.post("/v1/translate", params=RED, content=IMAGE).status_code == 200)
        for reader in readers:
            reader.close()


def test_the_slowest_makes_room_and_the_quick_stay() -> None:
    transfers = Transfers(Limits(max_answer_bytes=100, patience_s=0))
    with transfers.track(60) as quick, transfers.track(30) as slow:
        quick.num_bytes, slow.num_bytes = 1000, 1
        transfers.make_room(40)
        assert slow._dropped and not quick._dropped
    patient = Transfers(Limits(max_answer_bytes=100, patience_s=60))
    with patient.track(90), pytest.raises(Refused, match="too many answers"):
        patient.make_room(40)


def test_a_shutdown_waits_for_no_idle_client(model: Path) -> None:
    large = encoded(noise(1800, 1800))
    with running(model, Limits(stall_s=1, send_s=60)) as client:
        uploader = connect(client, post_head(len(IMAGE)) + b"x" * 1000)
        reader = connect(client, post_head(len(large)) + large)
        until(lambda: len(client.server.server_state.tasks) == 2)
        reader.recv(1)
        begin = time.monotonic()
        client.server.should_exit = True
        until(lambda: not client.server.server_state.connections, 5)
        assert time.monotonic() - begin < 4
        uploader.close()
        reader.close()


def test_a_shutdown_sends_what_was_accepted_to_slow_readers(model: Path) -> None:
    large = encoded(noise(1200, 1200))
    with running(model, Limits(stall_s=2)) as client:
        with connect(client, post_head(len(large)) + large) as reader:
            until(lambda: len(client.server.server_state.tasks) == 1)
            client.server.should_exit = True
            parts = [reader.recv(1000)]
            while part := reader.recv(2**18):
                parts.append(part)
                time.sleep(0.05)
        head, _, body = b"".join(parts).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert Image.open(io.BytesIO(body)).convert("RGB").size == (1200, 1200)


# --- other sites ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local(model: Path) -> Iterator[TestClient]:
    app = create_app(load_models([str(model)]), allowed_hosts=["edits.example"])
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "[", "a@b"])
def test_a_name_that_was_pointed_here_gets_nothing(local: TestClient, host: str) -> None:
    for path in ("/", "/v1/models", "/models.json", "/models/rooms.onnx", "/healthz"):
        assert local.get(path, headers={"Host": host}).status_code == 421
    assert local.post("/v1/translate", params=RED, content=IMAGE, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:1", "192.168.0.9", "EDITS.example:80"])
def test_addresses_and_allowed_names_are_served(local: TestClient, host: str) -> None:
    assert local.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_are_refused(local: TestClient, headers: dict[str, str]) -> None:
    assert local.post("/v1/translate", params=RED, content=IMAGE, headers=headers).status_code == 403
    for path in ("/v1/models", "/models/rooms.onnx"):
        assert local.get(path, headers=headers).status_code == 403
    form = headers | {"Sec-Fetch-Mode": "navigate"}
    assert local.post("/v1/translate", params=RED, content=IMAGE, headers=form).status_code == 403


def test_the_page_itself_and_links_to_it_work(local: TestClient) -> None:
    own = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert local.post("/v1/translate", params=RED, content=IMAGE, headers=own).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert local.get("/", headers=link).status_code == 200


def test_a_token_is_long_and_hides_the_docs(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerError, match="has 15 letters and needs 16"):
        create_app(load_models([str(model)]), token="x" * 15)
    with TestClient(create_app(load_models([str(model)]), token=TOKEN)) as client:  # by any name
        for path in ("/docs", "/openapi.json", "/redoc"):
            assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 404
    monkeypatch.setenv("DISTILLERY_TOKEN", "")
    result = CliRunner().invoke(serve, [str(model), "--port", "0"])
    assert isinstance(result.exception, ServerError) and "token is empty" in str(result.exception)


def test_the_docs_load_nothing_from_elsewhere(local: TestClient) -> None:
    page = local.get("/docs")
    assert page.status_code == 200 and "/v1/translate" in page.text
    assert "<script" not in page.text and "//" not in page.text.replace("<!doctype", "")
    for path in ("/", "/docs", "/v1/models", "/absent"):
        assert "frame-ancestors 'none'" in local.get(path).headers["content-security-policy"]


def test_head_is_where_get_is(local: TestClient) -> None:
    paths = ["/", "/healthz", "/v1/models", "/docs", "/openapi.json", "/models.json", "/models/rooms.onnx", "/app.js"]
    for path in paths:
        got, head = local.get(path), local.head(path)
        assert head.status_code == got.status_code == 200, path
        assert head.headers["content-length"] == got.headers["content-length"], path


# --- requests ------------------------------------------------------------------------------------------------------


def test_two_lengths_are_refused(model: Path) -> None:
    with running(model) as client:
        message = post_head(len(IMAGE), "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(IMAGE), IMAGE)
        answer = answer_to(client, message)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"both Content-Length and Transfer-Encoding" in answer


@pytest.mark.parametrize("charset", ["nonsense", "undefined", "base64", "utf-16", "idna", "\xe9", "x" * 5000, "%00"])
def test_charsets_that_are_not_ours_are_refused(local: TestClient, charset: str) -> None:
    kind = f"multipart/form-data; boundary=b; charset={charset}".encode("latin-1")
    body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + IMAGE + b"\r\n--b--\r\n"
    assert local.post("/v1/translate", params=RED, content=body, headers={"Content-Type": kind}).status_code == 415
    good = kind.replace(charset.encode("latin-1"), b"UTF-8")
    assert local.post("/v1/translate", params=RED, content=body, headers={"Content-Type": good}).status_code == 200


@pytest.mark.parametrize(
    "strength", ["1_0", "inf", "nan", " 1", "1 ", "+1", ".5", "1.", "01", "٣", "1e", "0x1", "", "１"]
)
def test_numbers_are_as_json_writes_them(local: TestClient, strength: str) -> None:
    answer = local.post("/v1/translate", params=RED | {"strength": strength}, content=IMAGE)
    assert answer.status_code == 422 and "strength: " in answer.json()["detail"]


@pytest.mark.parametrize("strength", ["1", "-0.5", "1e0", "2.5E-1", "0"])
def test_and_json_numbers_are_taken(local: TestClient, strength: str) -> None:
    assert local.post("/v1/translate", params=RED | {"strength": strength}, content=IMAGE).status_code == 200


def test_details_are_cut(local: TestClient) -> None:
    names = {f"{i:03}" + "ü" * 40: "x" for i in range(200)}
    answer = local.post("/v1/translate", params=names, content=IMAGE)
    assert answer.status_code == 422 and len(answer.json()["detail"].encode()) <= MAX_DETAIL_BYTES + 3


def test_a_full_temp_folder_is_503(local: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    class Full(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("inference.server.uploads.SpooledTemporaryFile", Full)
    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", Full)
    for request in ({"content": IMAGE}, {"files": {"image": IMAGE}}):
        answer = local.post("/v1/translate", params=RED, **request)
        assert answer.status_code == 503 and answer.json()["detail"].startswith("the server has no room")


# --- model files ---------------------------------------------------------------------------------------------------


def test_a_replaced_model_is_served_whole_under_one_digest(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx", properties(name="rooms"))
    old = path.read_bytes()
    digest = f"sha256:{hashlib.sha256(old).hexdigest()}"
    with TestClient(create_app(load_models([str(path)])), base_url="http://127.0.0.1") as client:
        other = write_model(tmp_path / "other.onnx", properties(name="rooms", teacher="another"))
        os.replace(other, path)
        assert path.read_bytes() != old
        got = client.get("/models/rooms.onnx")
        assert got.content == old and got.headers[DIGEST_HEADER] == digest
        assert client.get("/v1/models").json()["models"][0]["digest"] == digest
        assert client.post("/v1/translate", params=RED, content=IMAGE).headers[DIGEST_HEADER] == digest
        assert client.get("/models/rooms.onnx", headers={"If-None-Match": got.headers["etag"]}).status_code == 304


def test_a_model_overwritten_in_place_is_not_sent(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx", properties(name="rooms"))
    with TestClient(create_app(load_models([str(path)])), base_url="http://127.0.0.1") as client:
        path.write_bytes(path.read_bytes()[:-1] + b"xx")
        answer = client.get("/models/rooms.onnx")
        assert answer.status_code == 503 and "overwritten in place" in answer.json()["detail"]


def test_an_edit_that_the_graph_refuses_is_one_clear_error(tmp_path: Path) -> None:
    edits = {str(name): "x" for name in ("a", "b", "c")}  # the graph has two
    path = write_model(tmp_path / "model.onnx", properties(name="rooms", edits=edits))
    with TestClient(create_app(load_models([str(path)])), base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/translate", params={"edit": "c"}, content=IMAGE)
        assert answer.status_code == 500 and "refuses edit number 2" in answer.json()["detail"]
    translator = Translator.load(path)
    with pytest.raises(ValueError, match=r"refuses edit number 2 at .*: its metadata and its graph disagree"):
        translator(noise(8, 8), "c")
