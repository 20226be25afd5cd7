"""`distillery serve NAME.latest.json`: the new model without a restart, the old or the new one, never half of one."""

import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from PIL import Image
from tiny_model import noise, properties, write_model

import inference.server.served
from inference.pointer import model_of, resolved
from inference.runtime import ModelFileError, Translator
from inference.server.app import create_app
from inference.server.models import DIGEST_HEADER
from inference.server.run import listen, make_server
from inference.server.served import Served, load_models

IMAGE = noise(60, 90)


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference.server.served, "POLL_S", 0.05)


def make_run(runs: Path, name: str, **told: object) -> Path:
    """A run's folder with a model, whose first edit adds what `edits` say; `told` makes its bytes its own."""
    (runs / name).mkdir(parents=True, exist_ok=True)
    return write_model(runs / name / "model.onnx", properties(name="sofas", **told))


def point(runs: Path, name: str) -> Path:
    """Move the pointer as a finished run does: whole, by renaming."""
    part = runs / ".part"
    part.write_text(json.dumps({"model": f"{name}/model.onnx", "made_from": name, "measured": None}))
    return part.replace(runs / "sofas.latest.json")


def digest(model: Path) -> str:
    return f"sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}"


def wait_until(reached: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, httpx.Client, Served, list[str]]]:
    """The runs' folder, a client of a real server that follows its pointer, what it serves, and what it said."""
    runs = tmp_path / "runs"
    make_run(runs, "first", run=1)
    told: list[str] = []
    models = load_models([str(point(runs, "first"))], ["cpu"], 1, told.append)
    with listen("127.0.0.1", 0) as listener:
        server = make_server(create_app(models))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        address = "http://{}:{}".format(*listener.getsockname())
        with httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
            yield runs, client, models, told
        server.should_exit = True
        thread.join()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, "PNG")
    return buffer.getvalue()


def test_under_load_each_answer_is_of_the_old_or_the_new_model(
    served: tuple[Path, httpx.Client, Served, list[str]],
) -> None:
    runs, client, _, told = served
    # The new model has the same edits in the other order: half of each would show in the pixels.
    new = make_run(runs, "second", run=2, edits={"blue fabric": "b", "red leather": "r"})
    want = {
        digest(model): np.asarray(Translator.load(model, ["cpu"])(IMAGE, "red leather"))
        for model in (runs / "first" / "model.onnx", new)
    }
    old_digest, new_digest = want
    is_over = threading.Event()
    body = png()

    def ask() -> list[str]:
        seen = []
        while not is_over.is_set():
            answer = client.post("/v1/translate", params={"edit": "red leather"}, content=body)
            assert answer.status_code == 200, answer.text
            seen.append(answer.headers[DIGEST_HEADER])
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), want[seen[-1]])
        return seen

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask) for _ in range(8)]
        time.sleep(0.3)
        point(runs, "second")
        wait_until(lambda: len(told) == 1)
        time.sleep(0.3)
        is_over.set()
        seen = [future.result() for future in asking]
    assert {name for names in seen for name in names} == {old_digest, new_digest}
    for names in seen:  # and no way back
        assert names == sorted(names, key=[old_digest, new_digest].index)
    assert told == [f"sofas: serves {new} now ({new_digest})"]
    assert client.get("/v1/models").json()["models"][0]["digest"] == new_digest
    (listed,) = client.get("/models.json").json()
    assert listed["digest"] == new_digest
    assert hashlib.sha256(client.get(f"/{listed['file']}").content).hexdigest() == new_digest.removeprefix("sha256:")


def test_a_download_under_way_ends_with_the_old_bytes(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = make_run(runs, "first", run=1)
    content = first.read_bytes()
    models = load_models([str(point(runs, "first"))], ["cpu"], 1)
    old = models["sofas"]
    with models.lease("sofas") as leased:
        assert leased is old
        chunks = old.bytes.chunks()  # type: ignore[attr-defined]
        models.exchange("sofas", Translator.load(make_run(runs, "second", run=2), ["cpu"]))
        assert models["sofas"] is not old
        assert b"".join(chunks) == content
        old(IMAGE, "red leather")  # not closed yet
    with pytest.raises(RuntimeError, match="closed"):
        old(IMAGE, "red leather")
    models.close()


def test_old_models_leave_no_thread_and_no_open_file(served: tuple[Path, httpx.Client, Served, list[str]]) -> None:
    runs, client, _, told = served

    def count() -> tuple[int, int]:
        return sum(thread.name == "batcher" for thread in threading.enumerate()), len(os.listdir("/proc/self/fd"))

    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not list open files")
    client.post("/v1/translate", params={"edit": "red leather"}, content=png())  # opens the connection
    before = count()
    for number in range(5):
        make_run(runs, f"run-{number}", run=number + 10)
        point(runs, f"run-{number}")
        wait_until(lambda number=number: len(told) == number + 1)
        client.post("/v1/translate", params={"edit": "red leather"}, content=png())
    assert count() == before


@pytest.mark.parametrize("kind", ["garbage", "gone", "foreign graph", "pointer damaged", "pointer out of the folder"])
def test_what_cannot_be_served_is_left_out_with_a_line(
    served: tuple[Path, httpx.Client, Served, list[str]], kind: str
) -> None:
    runs, client, models, told = served
    before = models["sofas"]
    (runs / "bad").mkdir()
    if kind == "garbage":
        (runs / "bad" / "model.onnx").write_bytes(b"no model")
    elif kind == "foreign graph":  # it opens, but does not run: it takes strengths by twos
        model = onnx.load(make_run(runs, "other", run=9))
        (column,) = (tensor for tensor in model.graph.initializer if tensor.name == "column")
        column.CopyFrom(onnx.numpy_helper.from_array(np.array([-1, 1, 1, 2], np.int64), "column"))
        onnx.save(model, runs / "bad" / "model.onnx")
    if kind == "pointer damaged":
        (runs / "sofas.latest.json").write_text("{")
    elif kind == "pointer out of the folder":
        point(runs, "../elsewhere")
    else:
        point(runs, "bad")
    wait_until(lambda: len(told) == 1)
    assert told[0].startswith("sofas: the new model is not served, the present one stays: ") and "\n" not in told[0]
    time.sleep(0.2)
    assert len(told) == 1, "said once, not at each look"
    assert models["sofas"] is before
    assert client.post("/v1/translate", params={"edit": "red leather"}, content=png()).status_code == 200
    make_run(runs, "good", run=3)
    point(runs, "good")
    wait_until(lambda: len(told) == 2)
    assert told[1].startswith("sofas: serves ")


def test_a_model_replaced_in_its_folder_is_taken(served: tuple[Path, httpx.Client, Served, list[str]]) -> None:
    runs, _, models, told = served
    again = write_model(runs / "first" / ".part", properties(name="sofas", run=7)).replace(
        runs / "first" / "model.onnx"
    )
    wait_until(lambda: len(told) == 1)
    assert models["sofas"].metadata["run"] == 7 and digest(again) in told[0]


def test_a_pointer_is_read_as_strictly_as_it_is_written(tmp_path: Path) -> None:
    pointer = tmp_path / "x.latest.json"
    for content, message in (
        (None, "cannot be read"),
        ("[]", "names no model"),
        ("{}", "names no model"),
        ("[" * 100_000, "names no model"),
        ('{"model": 3}', "is not RUN/model.onnx"),
        ('{"model": "../x/model.onnx"}', "is not RUN/model.onnx"),
        ('{"model": "/etc/model.onnx"}', "is not RUN/model.onnx"),
    ):
        if content is not None:
            pointer.write_text(content)
        with pytest.raises(ModelFileError, match=message):
            model_of(pointer)
    pointer.write_text('{"model": "a b/model.onnx"}')
    with pytest.raises(ModelFileError, match=r"x\.latest\.json names a b/model.onnx, which is not on this machine"):
        model_of(pointer)
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "model.onnx").touch()
    assert resolved(str(pointer)) == str(tmp_path / "a b" / "model.onnx")
    assert resolved("hf://me/x") == "hf://me/x"


def test_names_are_those_of_the_pointer_where_the_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_model(tmp_path / "a" / "model.onnx", properties())
    pointer = tmp_path / "rooms.latest.json"
    pointer.write_text('{"model": "a/model.onnx"}')
    for location, name in ((str(pointer), "rooms"), (f"mine={pointer}", "mine")):
        models = load_models([location], ["cpu"], 1)
        assert list(models) == [name]
        models.close()
