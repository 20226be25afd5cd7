"""A headless Chromium, over its DevTools protocol."""

import base64
import io
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """A page in a headless Chromium, over its DevTools protocol."""

    events: list[dict[str, Any]]
    """What it reported by itself, in the domains that a test has enabled."""

    def __init__(self, profile: Path, flags: Sequence[str] = ()):
        from websockets.sync.client import connect

        assert CHROMIUM is not None
        own = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            "--disable-dev-shm-usage",
        ]
        command = [CHROMIUM, *own, *flags, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = profile / "DevToolsActivePort"
        _wait(lambda: port_file.exists() and port_file.read_text().count("\n") >= 1, "Chromium to start", 90)
        port = port_file.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            (tab,) = [tab for tab in json.load(answer) if tab["type"] == "page"]
        self._socket = connect(tab["webSocketDebuggerUrl"], max_size=None)
        self._last = 0
        self.events = []

    def call(self, method: str, **parameters: Any) -> Any:
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(60))).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def put_file(self, selector: str, path: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def wait_for(self, state: str) -> None:
        def reached() -> bool:
            now, text = self.evaluate("[document.body?.dataset.state, document.body?.innerText]")
            assert now != "error" or state == "error", text
            return bool(now == state)

        _wait(reached, f"the page to be {state}", 60)

    def painted(self, canvas: str = "after") -> np.ndarray:
        """A canvas of the page, uint8 (H, W, 3); by default the edited image."""
        url = self.evaluate(f"document.getElementById({json.dumps(canvas)}).toDataURL('image/png')")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))

    def screenshot(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait()


def _wait(reached: Any, what: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)
