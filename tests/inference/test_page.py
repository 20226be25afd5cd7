"""The browser's page: its resizing beside Pillow's, its routes, and the whole of it in a real Chromium."""

import hashlib
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from fastapi.testclient import TestClient
from peoples_images import encoded, exif, photograph
from PIL import Image
from tiny_model import noise, properties, write_model

from inference.runtime import Translator
from inference.server.app import create_app
from inference.server.page import WEB
from inference.server.run import listen, make_server
from inference.server.served import load_models
from inference.server.web import fetch
from synth.images.reader import SourceImage, read_image

TOKEN = "open-sesame-open-sesame"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties(name="living rooms"))


@pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")
@pytest.mark.parametrize(
    ("width", "height", "to_width", "to_height"),
    [(140, 90, 80, 48), (30, 400, 32, 128), (7, 5, 64, 64), (100, 30, 90, 5), (40, 60, 30, 41), (64, 48, 64, 40)],
)
def test_it_resizes_as_pillow_does(tmp_path: Path, width: int, height: int, to_width: int, to_height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    plane = np.random.default_rng(1).normal(size=(to_height, to_width)).astype(np.float32)
    (tmp_path / "pixels").write_bytes(pixels.tobytes())
    (tmp_path / "plane").write_bytes(plane.tobytes())
    program = f"""
        import {{ readFileSync, writeFileSync }} from "node:fs";
        import {{ resizePixels, resizePlane }} from {json.dumps((WEB / "resample.js").as_uri())};
        const pixels = new Uint8ClampedArray(readFileSync("pixels")), plane = readFileSync("plane");
        const numbers = new Float32Array(Uint8Array.from(plane).buffer);
        writeFileSync("small", resizePixels(pixels, {width}, {height}, 3, {to_width}, {to_height}));
        const large = resizePlane(numbers, {to_width}, {to_height}, {width}, {height});
        writeFileSync("large", Buffer.from(large.buffer));
    """
    (tmp_path / "resize.mjs").write_text(program)
    subprocess.run(["node", "resize.mjs"], cwd=tmp_path, check=True, capture_output=True)
    small = np.frombuffer((tmp_path / "small").read_bytes(), np.uint8).reshape(to_height, to_width, 3)
    large = np.frombuffer((tmp_path / "large").read_bytes(), np.float32).reshape(height, width)
    expected = np.asarray(Image.fromarray(pixels).resize((to_width, to_height), Image.Resampling.LANCZOS))
    assert np.abs(small.astype(int) - expected).max() <= (0 if _rows_first_is_known() else 30)
    expected_plane = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))
    assert np.abs(large - expected_plane).max() < 1e-5


@pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")
@pytest.mark.parametrize("size", [(150, 211), (48, 65), (49, 64), (1000, 100)])
def test_it_enlarges_a_change_as_the_reader_does(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width, h, w = *size, 48, 64
    photo = SourceImage(np.asarray(photograph(height, width)))
    if width < w:
        h, w = 128, 32
    change = np.random.default_rng(1).normal(0, 0.5, (3, h, w)).astype(np.float32)
    change[:, : h // 2, w // 3 :] = 0
    small = photo.reduced(h, w)
    alpha = np.arange(height * width, dtype=np.uint8).reshape(height, width, 1)
    (tmp_path / "rgba").write_bytes(np.dstack([photo.pixels, alpha]).tobytes())
    (tmp_path / "small").write_bytes(small.tobytes())
    (tmp_path / "change").write_bytes(change.tobytes())
    program = f"""
        import {{ readFileSync, writeFileSync }} from "node:fs";
        import {{ applyFit, fitChange }} from {json.dumps((WEB / "enlargement.js").as_uri())};
        const numbers = new Float32Array(Uint8Array.from(readFileSync("change")).buffer), area = {h * w};
        const planes = [0, 1, 2].map((c) => numbers.subarray(c * area, (c + 1) * area));
        const functions = fitChange(planes, readFileSync("small"), {w}, {h});
        const rgba = new Uint8ClampedArray(readFileSync("rgba"));
        applyFit(functions, {w}, {h}, rgba, 4, {width}, {height});
        writeFileSync("edited", rgba);
    """
    (tmp_path / "enlarge.mjs").write_text(program)
    subprocess.run(["node", "enlarge.mjs"], cwd=tmp_path, check=True, capture_output=True)
    edited = np.frombuffer((tmp_path / "edited").read_bytes(), np.uint8).reshape(height, width, 4)
    expected = photo.with_change(change, small).pixels
    assert np.array_equal(edited[..., 3:], alpha)
    assert np.abs(edited[..., :3].astype(int) - expected).max() <= 1
    assert (edited[..., :3] == expected).mean() > 0.999
    assert (expected != photo.pixels).mean() > 0.4


def _rows_first_is_known() -> bool:
    """Before 13, Pillow began with the width always, and clipped in between."""
    import PIL

    return int(PIL.__version__.split(".")[0]) >= 13


def test_the_page_and_its_models_are_served(model: Path) -> None:
    with TestClient(create_app(load_models([str(model)])), base_url="http://127.0.0.1") as client:
        page = client.get("/")
        assert page.status_code == 200 and "text/html" in page.headers["content-type"]
        assert page.headers["cross-origin-embedder-policy"] == "require-corp"  # or WebAssembly gets one core
        for name in ("app.js", "worker.js", "translator.js", "enlargement.js", "resample.js"):
            assert "text/javascript" in client.get(f"/{name}").headers["content-type"]
        ((listed),) = client.get("/models.json").json()
        digest = "sha256:" + hashlib.sha256(model.read_bytes()).hexdigest()
        assert listed == {"name": "living rooms", "file": "models/living%20rooms.onnx", "digest": digest}
        assert client.get(f"/{listed['file']}").content == model.read_bytes()
        assert client.get("/models/other.onnx").status_code == 404
        assert client.get("/models/../server.onnx").status_code == 404
        assert client.get("/fetch.py").status_code == 404


def test_models_want_the_token_and_the_page_does_not(model: Path) -> None:
    with TestClient(create_app(load_models([str(model)]), token=TOKEN), base_url="http://127.0.0.1") as client:
        assert client.get("/").status_code == 200
        for path in ("/models.json", "/models/living%20rooms.onnx"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers=AUTHORISED).status_code == 200


def test_models_with_weights_beside_them_are_not_for_pages(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    path.write_bytes(model.read_bytes())
    path.with_name("large.onnx.data").write_bytes(b"weights")
    with TestClient(create_app(load_models([str(path)])), base_url="http://127.0.0.1") as client:
        assert client.get("/models.json").json() == []


def test_the_page_names_nothing_that_is_elsewhere() -> None:
    for path in WEB.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            assert "http://" not in path.read_text() and "https://" not in path.read_text(), path.name


@pytest.fixture
def address(model: Path) -> Iterator[str]:
    with listen("127.0.0.1", 0) as listener:
        server = make_server(create_app(load_models([str(model)])))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield "http://{}:{}".format(*listener.getsockname())
        server.should_exit = True
        thread.join()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.skipif(not fetch.is_there(), reason="`make web` puts onnxruntime-web beside the page")
def test_in_a_browser_it_paints_the_runtime_s_pixels(
    model: Path, address: str, browser: Browser, tmp_path: Path
) -> None:
    browser.call("Page.navigate", url=f"{address}/")
    browser.wait_for("waiting")
    assert browser.evaluate("crossOriginIsolated")
    assert re.search(r"threads: [1-4]$", browser.evaluate("document.getElementById('about').textContent"))
    assert browser.evaluate("[...document.querySelectorAll('#edit option')].map(o => o.value)") == [
        *("red leather", "blue fabric")
    ]
    translator = Translator.load(model, num_threads=1)
    for number, size in enumerate([(64, 64), (90, 140), (400, 30)]):
        image = tmp_path / f"{number}.png"
        Image.fromarray(noise(*size, seed=number)).save(image)
        browser.evaluate("document.body.dataset.state = 'asked'")
        browser.put_file("#image", image)
        browser.wait_for("done")
        for edit, strength in (("red leather", 1), ("blue fabric", 0.7), ("blue fabric", 0)):
            browser.evaluate(
                f"""document.body.dataset.state = "asked";
                document.getElementById("edit").value = {json.dumps(edit)};
                document.getElementById("strength").value = {strength};
                document.getElementById("strength").dispatchEvent(new Event("input"));"""
            )
            browser.wait_for("done")
            painted = browser.painted()
            expected = np.asarray(translator(image, edit, strength))
            assert painted.shape == expected.shape
            assert np.abs(painted.astype(int) - expected).max() <= (1 if strength else 0)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.skipif(not fetch.is_there(), reason="`make web` puts onnxruntime-web beside the page")
def test_in_a_browser_an_image_is_read_as_by_the_reader(address: str, browser: Browser, tmp_path: Path) -> None:
    """What people bring, in sRGB: upright, and within two levels of the one reader's pixels."""
    upright = photograph(90, 140)
    turned = {turn: encoded(upright, "JPEG", quality=95, exif=exif(turn).tobytes()) for turn in (1, 6, 7)}
    deep = (np.asarray(upright.convert("L")).astype(np.uint16) * 257).astype(np.uint16)
    files = {
        **{f"turned-{turn}.jpg": content for turn, content in turned.items()},
        "plain.webp": encoded(upright, "WEBP", lossless=True),
        "grey.jpg": encoded(upright.convert("L"), "JPEG", quality=95),
        "palette.png": encoded(upright.convert("P"), "PNG"),
        "deep.png": encoded(Image.fromarray(deep), "PNG"),
        "bilevel.png": encoded(upright.convert("1"), "PNG"),
        "frames.gif": encoded(upright, "GIF", save_all=True, append_images=[Image.new("RGB", upright.size)]),
        "a.bmp": encoded(upright, "BMP"),
        "wrong-name.png": encoded(upright, "JPEG", quality=95),
    }
    browser.call("Page.navigate", url=f"{address}/")
    browser.wait_for("waiting")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        browser.evaluate("document.body.dataset.state = 'asked'")
        browser.put_file("#image", tmp_path / name)
        browser.wait_for("done")
        expected = read_image(content).srgb().astype(int)
        painted = browser.painted("before")
        assert painted.shape == expected.shape, name
        assert np.abs(painted - expected).max() <= 2, name


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.skipif(not fetch.is_there(), reason="`make web` puts onnxruntime-web beside the page")
def test_in_a_browser_what_goes_wrong_is_said(address: str, browser: Browser, tmp_path: Path) -> None:
    browser.call("Page.navigate", url=f"{address}/")
    browser.wait_for("waiting")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    browser.put_file("#image", broken)
    browser.wait_for("error")
    assert browser.evaluate("document.getElementById('status').textContent").startswith("broken.png is not an image")
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(b"\x08\x07")  # a protobuf message, but without our metadata
    browser.evaluate("document.body.dataset.state = 'asked'")
    browser.put_file("#model-file", foreign)
    browser.wait_for("error")
    assert "not made by" in browser.evaluate("document.getElementById('status').textContent")
