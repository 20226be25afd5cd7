"""What whoever serves may set: sizes, other sites' pages, and threads; and that memory and defaults hold."""

import io
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from hostile_images import bomb
from PIL import Image
from tiny_model import noise, properties, write_model

from flows.cli.use.serve import serve
from inference.runtime import Translator
from inference.server.app import create_app
from inference.server.limits import Limits, PixelBudget, Refused
from inference.server.models import ServerError
from inference.server.run import make_server
from inference.server.served import load_models

RED = {"edit": "red leather"}
TOKEN = "a-token-of-enough-letters"
APP = "https://app.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


def encoded(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(height, width)).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = encoded(60, 90)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties(name="rooms"))


@pytest.fixture
def command_serves(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Call `distillery serve` with options: a client of the application that it would serve, and its models."""
    served: dict[str, Any] = {}
    loaded = load_models
    monkeypatch.setattr("inference.server.run.serve", lambda app, listener, tell: served.update(app=app))
    monkeypatch.setattr(
        "inference.server.served.load_models", lambda *given: served.setdefault("models", loaded(*given))
    )

    def call(*options: str) -> tuple[TestClient, dict[str, Translator]]:
        served.clear()
        result = CliRunner().invoke(serve, [str(model), "--port", "0", *options])
        if result.exception is not None:
            raise result.exception
        return TestClient(served["app"], base_url="http://127.0.0.1:8000"), served["models"]

    yield call


# --- sizes ---------------------------------------------------------------------------------------------------------


def test_a_phones_50_megapixels_are_taken(command_serves: Any) -> None:
    client, _ = command_serves()
    broken = client.post("/v1/translate", params=RED, content=bomb(8160, 6144))
    assert broken.status_code == 422 and "cannot be read" in broken.json()["detail"], "its pixels are missing"
    too_large = client.post("/v1/translate", params=RED, content=bomb(8160, 8000))
    assert too_large.status_code == 413 and "more than 64000000 pixels" in too_large.json()["detail"]


def test_the_limits_are_options(command_serves: Any) -> None:
    client, _ = command_serves("--max-megapixels", "0.0054", "--max-upload", "0.05")
    assert client.post("/v1/translate", params=RED, content=IMAGE).status_code == 200  # 60 x 90
    refused = client.post("/v1/translate", params=RED, content=encoded(61, 90))
    too_large = "the image is too large: 90x61 are more than 5400 pixels; scale it down"
    assert (refused.status_code, refused.json()["detail"]) == (413, too_large)
    refused = client.post("/v1/translate", params=RED, content=encoded(200, 200))
    assert (refused.status_code, refused.json()["detail"]) == (413, "the request is larger than 52428 bytes")
    client, _ = command_serves("--max-megapixels", "100")
    assert client.post("/v1/translate", params=RED, content=bomb(8160, 8000)).status_code == 422


@pytest.mark.parametrize("option", [("--max-megapixels", "0"), ("--max-upload", "-1"), ("--threads", "0")])
def test_limits_that_serve_nobody_are_refused(command_serves: Any, option: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_serves(*option)
    assert ended.value.code == 2


def test_pixels_in_work_are_bounded_together() -> None:
    budget = PixelBudget(Limits(max_pixels_in_work=100, waiting_s=0.2))
    with budget.share() as take:
        take(60)
        with budget.share() as also:
            also(40)
        with (
            budget.share() as too_many,
            pytest.raises(Refused, match=r"no room for its pixels within 0\.2 s") as full,
        ):
            too_many(41)
        assert full.value.status == 503
    with budget.share() as alone:
        alone(1000)  # one alone may be larger
        with budget.share() as other, pytest.raises(Refused):
            other(1)
    with budget.share() as last:
        last(100)


def test_large_images_wait_for_each_other(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translator = Translator.load(model, num_threads=1)
    lock, now, most = threading.Lock(), 0, 0
    real = Translator.__call__

    def watched(self: Translator, images: Any, *more: Any) -> Any:
        nonlocal now, most
        if isinstance(images, list):  # the check of the edit, without an image
            return real(self, images, *more)
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return real(self, images, *more)

    monkeypatch.setattr(Translator, "__call__", watched)
    for pixels, expected in ((2 * 60 * 90, 2), (60 * 90, 1)):
        most = 0
        app = create_app({"rooms": translator}, Limits(max_pixels_in_work=pixels))
        with TestClient(app, base_url="http://127.0.0.1") as client, ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(client.post, "/v1/translate", params=RED, content=IMAGE) for _ in range(6)]
            assert [future.result().status_code for future in asked] == [200] * 6
        assert most <= expected


# --- other sites' pages --------------------------------------------------------------------------------------------


def test_no_other_site_is_allowed_by_default(command_serves: Any) -> None:
    client, _ = command_serves()
    answer = client.post("/v1/translate", params=RED, content=IMAGE, headers={"Origin": APP})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    preflight = client.options("/v1/translate", headers={"Origin": APP, **PREFLIGHT})
    assert "access-control-allow-origin" not in preflight.headers


@pytest.mark.parametrize("given", [APP, "HTTPS://App.Example/", f"{APP}:443"])
def test_an_allowed_site_may_ask_and_read(command_serves: Any, given: str) -> None:
    client, _ = command_serves("--allowed-origin", given, "--allowed-origin", "http://localhost:3000")
    for origin in (APP, "http://localhost:3000"):
        headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
        answer = client.post("/v1/translate", params=RED, content=IMAGE, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert "X-Model-Digest" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]
        refused = client.post("/v1/translate", params={"edit": "?"}, content=IMAGE, headers=headers)
        assert refused.status_code == 422 and refused.headers["access-control-allow-origin"] == origin
        preflight = client.options("/v1/translate", headers={"Origin": origin, **PREFLIGHT})
        assert preflight.status_code == 200 and preflight.headers["access-control-allow-origin"] == origin
        assert "POST" in preflight.headers["access-control-allow-methods"]
    for other in ("https://evil.example", "http://app.example", "https://app.example.evil.example", "null"):
        headers = {"Origin": other, "Sec-Fetch-Site": "cross-site"}
        answer = client.post("/v1/translate", params=RED, content=IMAGE, headers=headers)
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    rebound = client.get("/v1/models", headers={"Origin": APP, "Host": "evil.example"})
    assert rebound.status_code == 421, "the host is checked all the same"


def test_with_a_token_all_sites_may_be_allowed(command_serves: Any) -> None:
    client, _ = command_serves("--token", TOKEN, "--allowed-origin", "*")
    headers = {"Origin": "https://any.example"}
    assert client.get("/v1/models", headers=headers).status_code == 401
    answer = client.get("/v1/models", headers={**headers, "Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "*"
    with pytest.raises(ServerError, match="lets every web page use the server: set DISTILLERY_TOKEN"):
        command_serves("--allowed-origin", "*")


@pytest.mark.parametrize("given", ["", "app.example", "https://app.example/path", "ftp://app.example", "null", "a b"])
def test_what_is_no_origin_is_refused(command_serves: Any, given: str) -> None:
    with pytest.raises(ServerError, match=r"is not an origin: write one as in https://app\.example"):
        command_serves("--allowed-origin", given)


# --- threads and the log -------------------------------------------------------------------------------------------


def test_threads_are_an_option(command_serves: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def threads(*options: str) -> int:
        (translator,) = command_serves(*options)[1].values()
        return int(translator._session.get_session_options().intra_op_num_threads)

    assert threads("--threads", "3") == 3
    monkeypatch.setattr("synth.cpu.num_threads", lambda: 5)
    assert threads() == 5, "those that the container gives"


def test_bad_forms_do_not_flood_the_log(model: Path) -> None:
    make_server(create_app(load_models([str(model)])))
    logger, lines = logging.getLogger("python_multipart.multipart"), []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        for _ in range(50):
            logger.warning("Expected boundary character")
    finally:
        logger.removeHandler(handler)
    assert len(lines) <= 2
