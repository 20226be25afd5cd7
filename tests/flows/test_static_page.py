"""`distillery page`: the folder, its card, what is refused, and an edit from a plain static server in Chromium."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from browser import CHROMIUM, Browser
from PIL import Image
from small_page import exported_run
from small_runs import command
from tiny_model import noise, properties, write_model

import inference.server.page
from flows.page import page_contents
from inference.runtime import Translator
from inference.server.page import WEB
from inference.server.web import fetch
from synth.errors import RunError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return exported_run(tmp_path / "run")


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files with a stand-in for onnxruntime-web, which no test downloads."""
    web = tmp_path / "web"
    shutil.copytree(WEB, web, ignore=shutil.ignore_patterns("vendor"))
    (web / "vendor").mkdir()
    for name in fetch.FILES:
        (web / "vendor" / name).write_bytes(b"of a stand-in")
    monkeypatch.setattr(inference.server.page, "WEB", web)
    return web


def front_matter(card: str) -> dict[str, object]:
    return dict(yaml.safe_load(card.split("---\n", 2)[1]))


def test_the_folder_holds_the_page_the_model_and_a_card(run: Path, web: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    result = command("page", run, "--out", site)
    assert result.exit_code == 0, result.output
    assert f"page  {site / 'index.html'}" in result.output
    (listed,) = json.loads((site / "models.json").read_text())
    content = (run / "model.onnx").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert listed == {"name": "sofas", "file": f"models/sofas-{digest[:12]}.onnx", "digest": f"sha256:{digest}"}
    assert (site / listed["file"]).read_bytes() == content
    for name in ("index.html", "app.js", "live.js", "worker.js", "translator.js", "resample.js", "style.css"):
        assert (site / name).read_bytes() == (WEB / name).read_bytes()
    assert {path.name for path in (site / "vendor").iterdir()} == set(fetch.FILES)
    assert not list(site.rglob("*.py"))
    card = (site / "README.md").read_text()
    told = front_matter(card)
    assert (told["sdk"], told["app_file"], told["license"]) == ("static", "index.html", "creativeml-openrail-m")
    assert told["custom_headers"] == {
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "cross-origin",
    }
    assert len(str(told["short_description"])) <= 60  # the Hub's bound
    assert "| `red leather` | a red leather sofa |" in card and "(grid.png)" in card
    assert "models" not in told and "huggingface.co" not in card


def test_the_card_of_a_space_links_to_the_model(run: Path, web: Path) -> None:
    card = page_contents(run, "me/sofas")["README.md"]
    assert isinstance(card, bytes)
    assert front_matter(card.decode())["models"] == ["me/sofas"]
    assert "https://huggingface.co/me/sofas" in card.decode()


def test_the_pixel_network_goes_onto_the_page_if_there_is_one(run: Path, web: Path, tmp_path: Path) -> None:
    pixel = write_model(run / "model.pixel.onnx", properties(licence="apache-2.0", validated_on="x", extra=1))
    assert command("page", run, "--out", tmp_path / "site").exit_code == 0
    (model,) = (tmp_path / "site" / "models").iterdir()
    assert model.read_bytes() == pixel.read_bytes()


def test_a_page_is_replaced_and_nothing_else_is(run: Path, web: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    assert command("page", run, "--out", site).exit_code == 0
    (old,) = (site / "models").iterdir()
    write_model(run / "model.onnx", properties(licence="apache-2.0", validated_on="x", extra=1))
    assert command("page", run, "--out", site).exit_code == 0
    (new,) = (site / "models").iterdir()
    assert new.name != old.name
    (site / "photo.jpg").write_bytes(b"mine")
    result = command("page", run, "--out", site)
    assert result.exit_code == 2 and "holds photo.jpg, which is not part of a page" in result.output
    assert (site / "photo.jpg").read_bytes() == b"mine" and new.exists()


def test_what_makes_no_page_is_refused(run: Path, web: Path, tmp_path: Path) -> None:
    (run / "model.onnx.data").write_bytes(b"weights")
    with pytest.raises(RunError, match=r"keeps its weights in model\.onnx\.data, and a page takes one file"):
        page_contents(run)
    (run / "model.onnx.data").unlink()
    (web / "vendor" / next(iter(fetch.FILES))).unlink()
    with pytest.raises(RunError, match="onnxruntime-web is not beside the page: `make web`"):
        page_contents(run)
    (run / "grid.png").rename(run / "other.png")
    (run / "grid.png").symlink_to(run / "other.png")
    with pytest.raises(RunError, match=r"grid\.png is a symlink: put the file itself there"):
        page_contents(run)
    (run / "model.onnx").unlink()
    for folder, message in ((run, "has no model file yet"), (tmp_path / "web", "is not a run folder")):
        result = command("page", folder, "--out", tmp_path / "site")
        assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "site").exists()


class Isolating(SimpleHTTPRequestHandler):
    """A web host that sends what the card's custom_headers ask for."""

    def end_headers(self) -> None:
        for name, value in front_matter((Path(self.directory) / "README.md").read_text())["custom_headers"].items():  # type: ignore[attr-defined]
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


def edit_in(browser: Browser, address: str, image: Path) -> np.ndarray:
    """Open the page, give it an image and return what it makes of it with the edit "blue fabric"."""
    browser.call("Page.navigate", url=address)
    browser.wait_for("waiting")
    browser.put_file("#image", image)
    browser.wait_for("done")
    browser.evaluate(
        """document.body.dataset.state = "asked"; document.getElementById("edit").value = "blue fabric";
        document.getElementById("edit").dispatchEvent(new Event("change"));"""
    )
    browser.wait_for("done")
    return browser.painted()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.skipif(not fetch.is_there(), reason="`make web` puts onnxruntime-web beside the page")
def test_any_web_host_serves_it(run: Path, browser: Browser, tmp_path: Path) -> None:
    site, image = tmp_path / "site", tmp_path / "image.png"
    assert command("page", run, "--out", site).exit_code == 0
    Image.fromarray(noise(90, 140)).save(image)
    want = np.asarray(Translator.load(run / "model.onnx", num_threads=1)(image, "blue fabric")).astype(int)

    # Python's own server sends no headers: one thread, which the page says.
    server = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(site)]
    with subprocess.Popen(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as plain:
        assert plain.stdout is not None
        port = plain.stdout.readline().split(" port ")[1].split()[0]
        painted = edit_in(browser, f"http://127.0.0.1:{port}/", image)
        assert np.abs(painted - want).max() <= 1
        assert "one thread" in browser.evaluate("document.getElementById('about').textContent")
        plain.terminate()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Isolating, directory=str(site))) as isolating:
        threading.Thread(target=isolating.serve_forever, daemon=True).start()
        browser.call("Emulation.setHardwareConcurrencyOverride", hardwareConcurrency=8)
        painted = edit_in(browser, f"http://127.0.0.1:{isolating.server_port}/", image)
        assert np.abs(painted - want).max() <= 1
        assert browser.evaluate("crossOriginIsolated")
        assert "threads: 4" in browser.evaluate("document.getElementById('about').textContent")
        isolating.shutdown()
