"""Networks, servers, temporary folders and terminals as people's machines have them."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import proxy_bypass_environment

import httpx
import pytest
from small_runs import SMALL, command, small_recipe
from workplace import free_port

from flows.config.loading import load_recipe
from flows.config.parameter import as_parameter
from flows.config.schema import Recipe
from flows.config.toml import to_toml
from flows.orchestration import environment
from flows.orchestration.proxies import bypass_proxies, check_proxies
from flows.orchestration.server_status import check_server
from flows.stages.pipeline import pipeline
from flows.stages.synthesize import synthesize_flow
from synth.errors import RecipeError, RunError

ROOT = Path(__file__).parents[2]
MAIN = "from flows.cli import main; main()"
TWO_PROFILES = 'active = "mine"\n[profiles.mine]\n[profiles.old]\nPREFECT_API_URL = "http://h/api"\n'
PROXIES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        for each in (name, name.upper()):
            monkeypatch.setenv(each, "")  # so that what a test sets is taken back
            monkeypatch.delenv(each)


def run_python(program: str, *arguments: str, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a program for a user whose home is `cwd` and whose environment has these variables alone."""
    clean = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=cwd, env=clean | variables, capture_output=True, timeout=600
    )


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "socks://127.0.0.1:9/", "10.0.0.1:3128"]
)
def test_this_machine_is_reached_past_a_proxy(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of a private server gets its answer though nothing answers at the proxy; others do use the proxy."""
    monkeypatch.setenv(name, url)
    bypass_proxies()
    check_proxies()
    with answering(204) as port, httpx.Client(timeout=5) as client:
        for host in ("127.0.0.1", "localhost"):
            assert client.get(f"http://{host}:{port}").status_code == 204
        assert client._transport_for_url(httpx.URL("http://[::1]/")) is client._transport
        elsewhere = httpx.URL("https://a.example/" if name == "HTTPS_PROXY" else "http://a.example/")
        assert client._transport_for_url(elsewhere) is not client._transport
    assert all(proxy_bypass_environment(host) for host in ("127.0.0.1", "localhost", "::1"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": "corp.example"}, "corp.example,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": " a.b , localhost"}, "a.b,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "*"}, "*,127.0.0.1,localhost,::1"),
    ],
)
def test_the_users_exceptions_stay(given: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HTTP_PROXY": "http://p:1", **given}.items():
        monkeypatch.setenv(name, value)
    bypass_proxies()
    bypass_proxies()  # a command within a command adds nothing
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == expected


def test_without_a_proxy_nothing_is_set() -> None:
    """A variable would hide the proxies of a Mac's or Windows' settings."""
    bypass_proxies()
    assert not {"no_proxy", "NO_PROXY"} & os.environ.keys()


@pytest.mark.parametrize("url", ["socks4://me:secret@h:1", "ftp://me:secret@h", "http://me:secret@h:port"])
def test_what_is_no_proxy_is_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", url)
    with pytest.raises(RunError, match=r"variable ALL_PROXY is .* not a proxy's address") as raised:
        check_proxies()
    assert "secret" not in str(raised.value) and len(str(raised.value).splitlines()) == 1


class answering:  # reads as what it is
    """An HTTP server on a free port that answers every request with one status."""

    def __init__(self, status: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> int:
        return self._server.server_port

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (None, "does not answer"),
        (404, "does not answer as one"),
        (500, "does not answer as one"),
        (401, "refuses the"),
    ],
)
def test_a_server_that_is_no_use_is_one_line(status: int | None, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with answering(status or 200) as answered:
        url = f"http://127.0.0.1:{answered if status else free_port()}/api"
        with temporary_settings({PREFECT_API_URL: url}), pytest.raises(RunError, match=says) as raised:
            check_server()
    assert str(raised.value).startswith(f"the Prefect server at {url} (your Prefect profile's PREFECT_API_URL) ")
    assert "prefect config unset PREFECT_API_URL" in str(raised.value)


def test_a_server_that_answers_is_used(prefect_server: None) -> None:
    check_server()


@pytest.mark.parametrize("verb", ["run", "synthesize", "distill"])
def test_a_verb_with_a_dead_server(verb: str, tmp_path: Path, tiny_sd_folder: Path, monkeypatch: Any) -> None:
    """Refused before anything is made."""
    from small_runs import paint

    monkeypatch.setattr(environment, "_private_prefect", lambda: None)
    from prefect.settings import PREFECT_API_URL, temporary_settings

    data = ["--data", paint(small_recipe(tiny_sd_folder), tmp_path / "set")] if verb == "distill" else []
    url = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        result = command(verb, "sofas", "--teacher", tiny_sd_folder, *data, "--out", tmp_path / "out")
    assert result.exit_code == 2 and f"error: the Prefect server at {url}" in result.stderr, result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("profiles", "variables", "named"),
    [
        (None, {}, False),
        ('active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://h/api"\n', {}, True),
        (TWO_PROFILES, {}, False),
        (TWO_PROFILES, {"PREFECT_PROFILE": "old"}, True),
        (None, {"PREFECT_PROFILE": "local"}, True),
        (None, {"PREFECT_API_URL": "http://h/api"}, True),
        ("no TOML", {}, False),
        ("active = []\nprofiles = 3\n", {}, False),
    ],
)  # fmt: skip
def test_which_server_is_the_users(
    profiles: str | None, variables: dict[str, str], named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private server has a secret unless the profile in use names another server."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if profiles is not None:
        (tmp_path / ".prefect").mkdir()
        (tmp_path / ".prefect" / "profiles.toml").write_text(profiles)
    assert environment._names_server() == named


UNREADABLE = {
    "a variable": (
        {"PREFECT_SERVER_API_PORT": "abc"},
        {},
        "PREFECT_SERVER_API_PORT: Input should be a valid integer",
    ),
    "profiles": ({}, {".prefect/profiles.toml": "x = ["}, "Invalid value (at end of document)"),
    "a shape": ({}, {".prefect/profiles.toml": "profiles = 3"}, "'int' object has no attribute"),
    "a project": (
        {},
        {"prefect.toml": '[server.api]\nport = "abc"'},
        "ServerAPISettings.port: Input should",
    ),
}
SETTINGS_VERBS = {
    "run": ("run", "demo", "--out", "out"),
    "synthesize": ("synthesize", "demo", "--out", "out"),
    "dry run": ("synthesize", "demo", "--dry-run", "--out", "out"),
    "distill": ("distill", "demo", "--data", "set", "--out", "out"),
    "preview": ("preview", "demo", "--out", "out.html"),
    "compress": ("compress", "run"),
    "export": ("export", "run"),
}


@pytest.mark.parametrize("case", list(UNREADABLE))
def test_unreadable_prefect_settings_are_one_line(case: str, tmp_path: Path) -> None:
    variables, files, reason = UNREADABLE[case]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    ran = run_python(MAIN, *SETTINGS_VERBS["synthesize"], cwd=tmp_path, **variables)
    said = ran.stderr.decode()
    assert (ran.returncode, len(said.splitlines())) == (2, 1), said
    assert said.startswith(f"error: Prefect's settings cannot be read ({reason}") and "correct or remove" in said
    assert (".prefect/profiles.toml" in said) == (".prefect/profiles.toml" in files)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", list(SETTINGS_VERBS))
def test_every_verb_with_prefect_reads_its_settings_first(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once Prefect is imported, nothing is read again: what reading raises is put in its place."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text(to_toml(load_recipe("demo")))

    def refuse() -> None:
        raise RunError("the settings were read")

    monkeypatch.setattr(environment, "check_settings", refuse)
    monkeypatch.setattr(environment, "_private_prefect", lambda: None)
    result = command(*SETTINGS_VERBS[verb])
    assert (result.exit_code, result.stderr) == (2, "error: the settings were read\n"), result.output
    assert not (tmp_path / "out").exists()


def test_a_full_temporary_folder_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_MIN_TEMPORARY", 2**62)
    with pytest.raises(RunError, match=r"the folder for temporary files, has .* MiB left") as raised:
        environment.prepare_flows()
    assert "TMPDIR" in str(raised.value)


def large(tiny_sd_folder: Path, num_words: int = 20_000) -> Recipe:
    """A recipe of more than 512 KB: a slot has so many words, not all of them Latin."""
    words = [f"{index:05d} grün зима" for index in range(num_words)]
    slots = {"color": ["red", "blue"], "material": ["leather"], "thing": words}
    tables = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in slots.items())
    template = "a {color} {material} sofa, {thing}"
    return small_recipe(
        tiny_sd_folder,
        f"scenes.template={json.dumps(template)}",
        f"scenes.slots={{ {tables} }}",
        "scenes.count=2",
        *("training.steps=1", "training.checkpoint_every=1", "training.sample_every=1"),
    )


def test_a_large_recipe_goes_by_a_file(tiny_sd_folder: Path, prefect_server: None, tmp_path: Path) -> None:
    from synth.dataset.image_dataset import ImageDataset

    recipe = large(tiny_sd_folder)
    with as_parameter(recipe) as parameter:
        assert isinstance(parameter, str) and Path(parameter).is_file()
        assert synthesize_flow(parameter, str(tmp_path / "set")) == 2
    assert not Path(parameter).exists()
    assert ImageDataset(tmp_path / "set").prompts[0].endswith("grün зима")
    few = large(tiny_sd_folder, 10)
    with as_parameter(few) as parameter:
        assert parameter is few


def test_a_file_that_holds_no_recipe_is_one_line(tmp_path: Path, prefect_server: None) -> None:
    with pytest.raises(RecipeError, match=r"there is no recipe file .*none\.toml"):
        pipeline(str(tmp_path / "none.toml"), tmp_path / "run")


@pytest.mark.parametrize("encoding", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LANG": "C"}])
def test_letters_of_a_path_in_any_locale(encoding: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "Möbel зима 冬"
    home.mkdir()
    arguments = ["init", "rooms", "--from", "sofas", "--edit", "green=color=green", "--out", "räume зима.toml"]
    ended = run_python(MAIN, *arguments, cwd=home, **encoding)
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in home.glob("*.toml")] == ["räume зима.toml"]
    assert "räume зима.toml".encode() in ended.stdout
    missing = run_python(MAIN, "inspect", "fenêtre.onnx", cwd=home, **encoding)
    assert missing.returncode == 2 and "fenêtre.onnx".encode() in missing.stderr


def test_a_terminal_that_lacks_a_letter_gets_it_escaped(tmp_path: Path) -> None:
    arguments = ["init", "rooms", "--from", "sofas", "--edit", "green=color=green", "--out", "ä з.toml"]
    ended = run_python(MAIN, *arguments, cwd=tmp_path, PYTHONIOENCODING="iso-8859-1")
    assert ended.returncode == 0, ended.stderr
    assert b"\xe4 \\u0437.toml" in ended.stdout


def test_a_deleted_working_directory_is_one_line(tmp_path: Path) -> None:
    program = f"import os, shutil; shutil.rmtree(os.getcwd()); {MAIN}"
    (tmp_path / "gone").mkdir()
    ended = run_python(program, "inspect", "model.onnx", cwd=tmp_path / "gone")
    assert ended.returncode == 2
    assert ended.stderr == b"error: the working directory was deleted: change to another one (`cd`) and try again\n"


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams_harm_no_file(closed: tuple[int, ...], tmp_path: Path) -> None:
    """What is printed goes nowhere, rather than into a file that was opened under a stream's number."""
    program = (
        "import os, sys\n"
        "from flows.command_line import prepare_terminal\n"
        "prepare_terminal()\n"
        "file = open('kept.txt', 'w')\nassert file.fileno() > 2\nfile.write('kept')\nfile.flush()\n"
        "print('lost'); print('lost', file=sys.stderr); sys.stdout.flush(); sys.stderr.flush()\n"
    )
    shell = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["sh", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, program]
    assert subprocess.run(arguments, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL).returncode == 0
    assert (tmp_path / "kept.txt").read_text() == "kept"


def test_a_reader_that_has_read_enough_ends_no_run(tmp_path: Path) -> None:
    """`distillery run ... | head -1`: the lines that nobody reads are dropped, and the work goes on."""
    program = (
        "import logging\nfrom flows.orchestration.logs import show_logs\nshow_logs()\n"
        "for number in range(20000): logging.getLogger('flows').info(f'line {number}')\n"
        "open('done', 'w').close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["sh", "-c", '"$0" -c "$1" | head -1', sys.executable, program]
    ended = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("line 0\n", "") and (tmp_path / "done").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks://127.0.0.1:9"},
        {"HOME": "/proc/nobody"},
        {"TMPDIR": "/nonexistent"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["proxies", "no home to write to", "no TMPDIR", "C locale"],
)
def test_a_whole_run(variables: dict[str, str], tiny_sd_folder: Path, tmp_path: Path) -> None:
    """By its own process, with a private server, in a folder with a space and an umlaut."""
    folder = tmp_path / "zwei Möbel"
    folder.mkdir()
    overrides = [word for override in SMALL for word in ("--set", override)]
    arguments = ["run", "sofas", "--teacher", str(tiny_sd_folder), *overrides, "--data", "set ü", "--out", "run ü"]
    ended = run_python(MAIN, *arguments, cwd=folder, **variables)
    assert ended.returncode == 0, ended.stderr
    assert (folder / "run ü" / "model.onnx").exists() and (folder / "set ü" / "data").is_dir()
    assert "model  run ü/model.onnx".encode() in ended.stdout
