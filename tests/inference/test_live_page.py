"""The page's live part: its loop in Node, its headers, and the whole of it in Chromium with a fake camera."""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from fastapi import Request, Response
from fastapi.testclient import TestClient
from known_video import LEVELS, colours, frame, write_y4m
from PIL import Image
from tiny_model import noise, properties, write_model

from inference.runtime import Translator
from inference.server.app import create_app
from inference.server.page import WEB
from inference.server.run import listen, make_server
from inference.server.served import load_models
from inference.server.web import fetch

PIXEL = "pixel network, small: one pass, no VAE"
in_node = pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties(name="rooms", network=PIXEL))


# --- the loop, without a browser -----------------------------------------------------------------------------------

STAGE = """
import {{ Live, Rate, openCamera, openVideo }} from {live};
// A video whose frames come when the program says so; a frame is its number.
class Video extends EventTarget {{
  videoWidth = 4; number = -1; waiting = []; srcObject = null; played = [];
  requestVideoFrameCallback(callback) {{ this.waiting.push(callback); }}
  present() {{ this.number++; for (const callback of this.waiting.splice(0)) callback(); }}
  async play() {{ this.played.push(this.srcObject ?? this.src); this.present(); }}
  pause() {{}} load() {{}} removeAttribute() {{ this.src = ""; }}
}}
globalThis.createImageBitmap = async (video) => video.number;
const settle = () => new Promise((resolve) => setTimeout(resolve, 5));
const video = new Video(), asked = [], shown = [], told = [], released = [];
const live = new Live(video, {{
  edit: (frame) => new Promise((resolve, reject) => asked.push({{ frame, resolve, reject }})),
  show: (frame) => shown.push(frame),
  tell: (state, line) => told.push([state, line, live.isOn]),
}});
const source = (name) => async () =>
  ({{ src: name, problem: `${{name}} is broken`, release: () => released.push(name) }});
"""


def said_by(program: str, folder: Path) -> Any:
    """What a program over live.js answers: its last expression `answer`, from JSON."""
    stage = STAGE.format(live=json.dumps((WEB / "live.js").as_uri()))
    (folder / "program.mjs").write_text(f"{stage}\n{program}\nconsole.log(JSON.stringify(answer));")
    result = subprocess.run(["node", "program.mjs"], cwd=folder, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


STARTED = (["starting", "Starting ...", True], ["live", "Live.", True])


@in_node
def test_one_frame_at_a_time_and_always_the_newest(tmp_path: Path) -> None:
    answer = said_by(
        """
        live.start(source("a")); await settle();
        const open = [asked.length];
        for (let i = 0; i < 5; i++) video.present();   // while frame 0 is being edited
        await settle(); open.push(asked.length);
        asked[0].resolve("edited 0"); await settle(); open.push(asked.length);
        asked[1].resolve("edited 5"); await settle(); open.push(asked.length);   // no new one: it waits
        video.present(); await settle(); open.push(asked.length);
        const answer = { open, frames: asked.map(({ frame }) => frame), shown };
        """,
        tmp_path,
    )
    assert answer == {"open": [1, 1, 2, 2, 3], "frames": [0, 5, 6], "shown": ["edited 0", "edited 5"]}


@in_node
def test_what_was_stopped_shows_nothing_more(tmp_path: Path) -> None:
    answer = said_by(
        """
        live.start(source("a")); await settle();
        live.stop(); asked[0].resolve("too late"); await settle();
        video.present(); await settle();
        live.start(source("b")); await settle();
        live.start(source("c")); await settle();       // in its place
        asked[1].resolve("of b"); asked[2].resolve("of c"); await settle();
        const before = [...released];
        asked.length = 0; video.present(); await settle(); asked[0].reject(new Error("overflow")); await settle();
        live.stop(); live.stop();                      // of what is off: nothing
        const answer = { shown, told, before, released, played: video.played };
        """,
        tmp_path,
    )
    assert answer["shown"] == ["of c"] and answer["played"] == ["a", "b", "c"]
    assert (answer["before"], answer["released"]) == (["a", "b"], ["a", "b", "c"])
    starting, live = STARTED
    assert answer["told"] == [
        *(starting, ["stopped", "Stopped.", False]),
        *(starting, starting, live, ["error", "overflow", False]),
    ]


@in_node
def test_a_camera_that_is_allowed_too_late_goes_dark(tmp_path: Path) -> None:
    answer = said_by(
        """
        let allow;
        live.start(() => new Promise((resolve) => (allow = resolve))); await settle();
        live.stop();
        allow(await source("camera")()); await settle();
        const answer = { released, played: video.played, asked: asked.length, on: live.isOn };
        """,
        tmp_path,
    )
    assert answer == {"released": ["camera"], "played": [], "asked": 0, "on": False}


@in_node
def test_a_video_ends_with_its_last_frame(tmp_path: Path) -> None:
    answer = said_by(
        """
        live.start(source("a")); await settle();
        video.present(); video.dispatchEvent(new Event("ended"));
        asked[0].resolve(0); await settle(); asked[1].resolve(1); await settle();
        const once = { frames: asked.map(({ frame }) => frame), shown: [...shown], told: told.at(-1) };
        live.start(source("b")); await settle(); asked[2].resolve(2); await settle();   // the next is not over
        video.dispatchEvent(new Event("error"));
        const broken = told.at(-1);
        let unplug;
        const lost = new Promise((resolve) => (unplug = resolve));
        live.start(async () => ({ ...(await source("c")()), lost })); await settle();
        unplug(); await settle();
        const answer = { ...once, broken, gone: told.at(-1), released };
        """,
        tmp_path,
    )
    assert answer["frames"] == [0, 1] and answer["shown"] == [0, 1]
    assert answer["told"] == ["stopped", "The video has ended.", False]
    assert answer["broken"] == ["error", "b is broken", False]
    assert answer["gone"] == ["stopped", "The camera is gone.", False]
    assert answer["released"] == ["a", "b", "c"]


@in_node
def test_what_is_too_slow_says_so_and_stops(tmp_path: Path) -> None:
    program = """
        let clock = 0;
        globalThis.performance = { now: () => clock };
        const times = TIMES;
        live.start(source("a")); await settle();
        for (const ms of times) {
          clock += ms; asked.at(-1).resolve(ms); await settle(); video.present(); await settle();
        }
        const answer = { told: told.at(-1), shown: shown.length };
    """
    slow = said_by(program.replace("TIMES", "[9000, 2340, 2500, 2500]"), tmp_path)
    assert slow == {
        "told": ["error", "A frame takes 2.3 s here, too slow to be live: use images.", False],
        "shown": 3,
    }
    # A first call takes longer than those after it, and a busy moment is no slow machine.
    quick = said_by(program.replace("TIMES", "[9000, 2340, 900, 5000]"), tmp_path)
    assert quick == {"told": STARTED[1], "shown": 4}


@in_node
def test_frames_a_second_are_those_of_the_last_second(tmp_path: Path) -> None:
    answer = said_by(
        """
        const steady = new Rate(), rates = [];
        for (let i = 0; i < 40; i++) rates.push(steady.add(1000 + 40 * i));     // 25 a second
        for (let i = 1; i <= 30; i++) rates.push(steady.add(2560 + 100 * i));   // then 10
        const times = (all, rate) => all.map((now) => rate.add(now));
        const answer = { rates, slow: times([0, 4000, 8000], new Rate()), same: times([5, 5], new Rate()) };
        """,
        tmp_path,
    )
    assert answer["rates"][0] is None and answer["rates"][1] == answer["rates"][39] == 25
    assert 10 < answer["rates"][44] < 25 and answer["rates"][-1] == 10
    assert answer["slow"] == [None, 0.25, 0.25] and answer["same"] == [None, None]


@in_node
@pytest.mark.parametrize(
    ("thrown", "line"),
    [
        ("NotAllowedError", "The camera is not allowed: allow it for this page"),
        ("NotFoundError", "There is no camera here: connect one, or choose a video."),
        ("NotReadableError", "The camera does not start: close other programs that use it."),
        ("AbortError", "The camera does not start: by the driver."),
        (None, "A camera needs a page by https, or from localhost"),
    ],
)
def test_why_there_is_no_camera_is_one_line(tmp_path: Path, thrown: str | None, line: str) -> None:
    program = """
        const thrown = THROWN;   // null: a page that came over a network without encryption has no mediaDevices
        const getUserMedia = async () => { throw Object.assign(new Error("by the driver"), { name: thrown }); };
        const value = thrown ? { mediaDevices: { getUserMedia } } : {};
        Object.defineProperty(globalThis, "navigator", { value });
        await live.start(openCamera);
        const answer = { told: told.at(-1), played: video.played };
    """
    answer = said_by(program.replace("THROWN", json.dumps(thrown)), tmp_path)
    state, told, is_on = answer["told"]
    assert told.startswith(line) and "\n" not in told
    assert (state, is_on, answer["played"]) == ("error", False, [])


@in_node
def test_a_video_without_a_picture_is_refused(tmp_path: Path) -> None:
    answer = said_by(
        """
        const file = Object.assign(new Blob(["x"]), { name: "song.mp4" });
        video.videoWidth = 0;
        await live.start(() => openVideo(file));
        const sound = told.at(-1);
        video.play = async () => { throw Object.assign(new Error("it saves power"), { name: "NotAllowedError" }); };
        await live.start(() => openVideo(file));
        const saving = told.at(-1);
        video.play = async () => { throw Object.assign(new Error("no decoder"), { name: "NotSupportedError" }); };
        await live.start(() => openVideo(file));
        const decoder = told.at(-1);
        video.requestVideoFrameCallback = undefined;
        await live.start(() => openVideo(file));
        const answer = { sound, saving, decoder, old: told.at(-1), asked: asked.length };
        """,
        tmp_path,
    )
    refused = ["error", "song.mp4 is not a video that this browser plays.", False]
    assert answer["sound"] == answer["decoder"] == refused
    assert answer["saving"] == ["error", "it saves power", False]
    assert answer["old"][1].endswith("use a newer one.") and answer["asked"] == 0


# --- what the server sends -----------------------------------------------------------------------------------------


def test_only_the_page_may_ask_for_the_camera(model: Path) -> None:
    with TestClient(create_app(load_models([str(model)])), base_url="http://127.0.0.1") as client:
        assert "text/javascript" in client.get("/live.js").headers["content-type"]
        for path in ("/", "/index.html"):
            policy = client.get(path).headers["permissions-policy"].split(", ")
            assert [rule for rule in policy if not rule.endswith("=()")] == ["camera=(self)"]
            assert "microphone=()" in policy
        for path in ("/docs", "/v1/models", "/app.js", "/healthz", "/absent"):
            policy = client.get(path).headers["permissions-policy"].split(", ")
            assert "camera=()" in policy and all(rule.endswith("=()") for rule in policy), path
        content = client.get("/").text
    rules = dict(
        rule.strip().split(" ", 1) for rule in content.split('Policy" content="')[1].split('"')[0].split(";")
    )
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'" and rules["media-src"] == "blob:"


# --- in a browser --------------------------------------------------------------------------------------------------


def in_chromium(test: Callable[..., None]) -> Callable[..., None]:
    test = pytest.mark.skipif(not fetch.is_there(), reason="`make web` puts onnxruntime-web beside the page")(test)
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")(test))


FAKE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
KEEPS_STREAMS = """
window.streams = [];
const ask = MediaDevices.prototype.getUserMedia;
MediaDevices.prototype.getUserMedia = async function (wanted) {
  const stream = await ask.call(this, wanted);
  streams.push(stream);
  return stream;
};
"""
TRACKS = "streams.flatMap((stream) => stream.getTracks().map((track) => `${track.kind} ${track.readyState}`))"


class Page:
    """The page in a Chromium with its flags, and the requests that its server got."""

    def __init__(self, browser: Browser, requests: list[str]):
        self.browser = browser
        self.requests = requests

    def press(self) -> None:
        self.browser.evaluate("document.getElementById('camera').click()")

    def text(self, name: str = "status") -> str:
        return " ".join(self.browser.evaluate(f"document.getElementById({json.dumps(name)}).textContent").split())

    def choose(self, edit: str, strength: float) -> None:
        self.browser.evaluate(
            f"""document.getElementById("edit").value = {json.dumps(edit)};
            document.getElementById("edit").dispatchEvent(new Event("change"));
            document.getElementById("strength").value = {strength};
            document.getElementById("strength").dispatchEvent(new Event("input"));"""
        )

    def shown(self) -> tuple[np.ndarray, np.ndarray]:
        """A frame before and after, of one moment, uint8 (H, W, 3)."""
        sizes = self.browser.evaluate(
            """["before", "after"].map((name) => {
              const canvas = document.getElementById(name), { width, height } = canvas;
              return [height, width, ...canvas.getContext("2d").getImageData(0, 0, width, height).data];
            })"""
        )
        before, after = (np.array(rgba[2:], np.uint8).reshape(*rgba[:2], 4)[..., :3] for rgba in sizes)
        return before, after

    def wait_until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not reached():
            assert time.monotonic() < end, self.browser.evaluate("document.body.innerText")
            time.sleep(0.02)


@contextmanager
def opened(model: Path, folder: Path, *flags: str) -> Iterator[Page]:
    app = create_app(load_models([str(model)]))
    requests: list[str] = []

    @app.middleware("http")
    async def count(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        requests.append(request.url.path)
        return await answer(request)

    with ExitStack() as stack:
        listener = stack.enter_context(listen("127.0.0.1", 0))
        server = make_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        stack.callback(thread.join)
        stack.callback(setattr, server, "should_exit", True)
        browser = Browser(folder / "profile", flags)
        stack.callback(browser.close)
        browser.call("Page.enable")
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=KEEPS_STREAMS)
        browser.call("Page.navigate", url="http://{}:{}/".format(*listener.getsockname()))
        browser.wait_for("waiting")
        yield Page(browser, requests)


def number_of(before: np.ndarray) -> int:
    """Which of the known frames this is; fails for any other picture."""
    top, bottom = before[2:-2][: len(before) // 2 - 6], before[len(before) // 2 + 4 : -2]
    number = int(np.argmin([abs(float(top[..., 0].mean()) - level) for level in LEVELS]))
    for part, colour in zip((top, bottom), colours(number), strict=True):
        assert np.abs(part.astype(int) - colour).max() <= 4  # of 8-bit YUV and back
    return number


@in_chromium
def test_in_a_browser_the_camera_is_edited_live(model: Path, tmp_path: Path) -> None:
    video = write_y4m(tmp_path / "known.y4m", [frame(k) for k in (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)])
    translator = Translator.load(model, num_threads=1)
    with opened(model, tmp_path, *FAKE, f"--use-file-for-fake-video-capture={video}") as page:
        browser = page.browser
        browser.call("Network.enable")
        browser.events.clear()
        num_requests = len(page.requests)
        page.press()
        browser.wait_for("live")
        assert page.text("camera") == "Stop" and browser.evaluate(TRACKS) == ["video live"]
        for edit, strength in (("red leather", 1), ("blue fabric", 0.7), ("blue fabric", -0.5), ("red leather", 0)):
            page.choose(edit, strength)
            seen: set[int] = set()
            deadline = time.monotonic() + 30
            while len(seen) < len(LEVELS):
                assert time.monotonic() < deadline, (edit, strength, seen)
                before, after = page.shown()
                expected = np.asarray(translator(before, edit, strength)).astype(int)
                follows = np.abs(after - expected).max() <= (2 if strength else 0)
                assert follows or not seen, (
                    edit,
                    strength,
                )  # but for one that was on its way when the controls moved
                assert before.shape == (64, 64, 3)
                if follows:
                    seen.add(number_of(before))
                time.sleep(0.02)
        page.wait_until(lambda: "frames a second at 64 × 64" in page.text("rate"))
        assert 2 < float(page.text("rate").split()[0]) < 70

        page.press()
        browser.wait_for("stopped")
        assert page.text() == "Stopped." and page.text("camera") == "Start the camera"
        assert browser.evaluate(TRACKS) == ["video ended"]
        last = page.shown()
        time.sleep(0.4)
        assert all(np.array_equal(*pair) for pair in zip(last, page.shown(), strict=True))
        # No request left while it was live: not to the server, and not from the page to anywhere.
        asked = [event["params"]["request"]["url"] for event in browser.events if event["method"].endswith("BeSent")]
        assert [url for url in asked if not url.startswith(("blob:", "data:"))] == []
        assert len(page.requests) == num_requests and num_requests > 0

        # The last frame stays, as an image like any other.
        browser.evaluate("document.body.dataset.state = 'asked'")
        page.choose("blue fabric", 1)
        browser.wait_for("done")
        before, after = page.shown()
        assert np.array_equal(before, last[0])
        assert np.abs(after - np.asarray(translator(before, "blue fabric")).astype(int)).max() <= 1
        # An image takes the camera's place.
        Image.fromarray(noise(90, 140)).save(tmp_path / "image.png")
        page.press()
        browser.wait_for("live")
        browser.put_file("#image", tmp_path / "image.png")
        browser.wait_for("done")
        assert browser.evaluate(TRACKS) == ["video ended"] * 2
        assert np.array_equal(page.shown()[0], noise(90, 140))

        page.press()
        browser.wait_for("live")
        window = browser.call("Browser.getWindowForTarget")["windowId"]
        browser.call("Browser.setWindowBounds", windowId=window, bounds={"windowState": "minimized"})
        browser.wait_for("stopped")
        assert page.text() == "Stopped, as the page was hidden."
        assert browser.evaluate(TRACKS) == ["video ended"] * 3


RECORDED = """(async () => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 96, height: 64 });
  const context = canvas.getContext("2d"), parts = [];
  const recorder = new MediaRecorder(canvas.captureStream(30), { mimeType: "video/webm;codecs=vp8" });
  recorder.ondataavailable = ({ data }) => parts.push(data);
  recorder.start();
  for (let i = 0; i < 40; i++) {
    context.fillStyle = `rgb(${60 + 2 * i}, 120, 90)`;
    context.fillRect(0, 0, 96, 64);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  await new Promise((resolve) => { recorder.onstop = resolve; recorder.stop(); });
  window.recorded = new File(parts, "room.webm", { type: "video/webm" });
})()"""
PUT = """{
  const files = new DataTransfer(), input = document.getElementById("video");
  files.items.add(FILE);
  input.files = files.files;
  input.dispatchEvent(new Event("change"));
}"""


@in_chromium
def test_in_a_browser_a_video_is_edited_live(model: Path, tmp_path: Path) -> None:
    translator = Translator.load(model, num_threads=1)
    with opened(model, tmp_path) as page:
        browser = page.browser
        browser.evaluate(RECORDED)
        num_requests = len(page.requests)
        for _ in range(2):  # and again
            browser.evaluate("document.body.dataset.state = 'asked'")
            browser.evaluate(PUT.replace("FILE", "recorded"))
            reds: set[int] = set()
            while browser.evaluate("document.body.dataset.state") != "stopped":
                assert page.text() in ("Starting ...", "Live.", "The video has ended."), page.text()
                reds.add(int(page.shown()[0][..., 0].mean()))
                time.sleep(0.02)
            assert page.text() == "The video has ended."
            assert len(reds) >= 3  # it moved
            before, after = page.shown()
            assert before.shape == (56, 80, 3)  # of 64 x 64 pixels' area, in multiples of 8
            assert np.abs(before.astype(int) - (138, 120, 90)).max() <= 8  # the last frame, by VP8
            assert np.abs(after - np.asarray(translator(before, "red leather")).astype(int)).max() <= 2
        assert len(page.requests) == num_requests

        browser.evaluate(PUT.replace("FILE", "new File(['no video'], 'a.mp4', { type: 'video/mp4' })"))
        browser.wait_for("error")
        assert page.text() == "a.mp4 is not a video that this browser plays."
        browser.evaluate("document.body.dataset.state = 'asked'")
        page.press()  # no camera in this browser
        browser.wait_for("error")
        assert page.text() == "There is no camera here: connect one, or choose a video."
        assert page.text("camera") == "Start the camera"


@in_chromium
def test_in_a_browser_a_camera_may_be_refused(model: Path, tmp_path: Path) -> None:
    with opened(model, tmp_path, FAKE[0], "--use-fake-ui-for-media-stream=deny") as page:
        page.press()
        page.browser.wait_for("error")
        assert page.text().startswith("The camera is not allowed: allow it for this page")


@in_chromium
def test_in_a_browser_a_student_takes_images_only(tmp_path: Path) -> None:
    student = write_model(tmp_path / "student.onnx", properties(name="rooms"))
    with opened(student, tmp_path, *FAKE) as page:
        assert (
            page.browser.evaluate("['camera', 'video'].map((id) => document.getElementById(id).disabled)")
            == [True] * 2
        )
        assert page.text("stills-only").startswith("Images only: this model is a student")
        assert page.browser.evaluate("document.getElementById('stills-only').offsetHeight") > 0
        page.browser.evaluate(PUT.replace("FILE", "new File(['x'], 'a.mp4', { type: 'video/mp4' })"))
        page.browser.wait_for("error")
        assert page.text().startswith("Images only: this model is a student")
        assert page.browser.evaluate(TRACKS) == []
