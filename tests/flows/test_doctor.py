"""`distillery doctor`: what it finds, in a light installation, and where something is broken."""

import json
import os
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from light_site import ROOT, distillery, link_base_packages
from packaging.requirements import Requirement
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from tiny_model import properties, write_model

from flows.doctor import devices, machine, packages, services
from flows.doctor.findings import Finding, Level, broken, lines, section, short
from flows.orchestration import server_status as server
from flows.orchestration.server_status import server_status

SECRETS = ("hf_aVerySecretToken", "proxy-password", "query-secret")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What model files need, in which a test may break something."""
    return link_base_packages(tmp_path / "site", "cpu")


def break_package(site: Path, name: str, source: str) -> None:
    """Put a module in the place of a package; its metadata stays."""
    (site / name).unlink()
    (site / f"{name}.py").write_text(source)


def fake_package(site: Path, name: str, installed: str, source: str) -> None:
    """A package with metadata and one module."""
    folder = site / f"{name}-{installed}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {installed}\n")
    (site / f"{name}.py").write_text(source)


def test_the_base_install_is_healthy_without_torch(site: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx", properties())
    ran = distillery(site, "doctor", str(tmp_path / "model.onnx"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    assert "torch         not installed: model files run without it" in ran.stdout
    assert f"ONNX Runtime  {version('onnxruntime')}, providers" in ran.stdout
    assert "lora      for training.lora_rank: not installed\n" in ran.stdout
    assert f"numpy {version('numpy')}" in ran.stdout
    assert "2 edits (red leather, blue fabric), on CPU" in " ".join(ran.stdout.split())
    assert not list((tmp_path / "home").iterdir()), "it leaves nothing behind"


def test_json_is_the_page(site: Path) -> None:
    ran = distillery(site, "doctor", "--json")
    found = json.loads(ran.stdout)
    assert list(found) == ["dds-distillery", "machine", "packages", "devices", "services"]
    assert found["dds-distillery"][0] == {"name": "version", "value": "0.1.0", "level": "ok"}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('DLL load failed\\nwhile importing')", "ImportError: DLL load failed"),
        ("raise OSError('libgomp.so.1: cannot open shared object file')", "OSError: libgomp.so.1: cannot open"),
        ("raise ValueError('numpy.dtype size changed')", "ValueError: numpy.dtype size changed"),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    ],
)
def test_a_package_that_cannot_be_imported_is_one_line(site: Path, source: str, reason: str) -> None:
    break_package(site, "onnxruntime", f"print('noise'); {source}")
    ran = distillery(site, "doctor")
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"error: onnxruntime: cannot be imported: {reason}")
    assert len(ran.stderr.splitlines()) == 1
    assert "noise" not in ran.stdout
    assert "Hub  " in ran.stdout, "the rest of the page is there"


def test_a_torch_without_its_libraries_is_one_line(site: Path) -> None:
    fake_package(site, "torch", "2.13.0", "raise OSError('libcudart.so.13: cannot open shared object file')")
    ran = distillery(site, "doctor")
    assert ran.returncode == 2
    assert ran.stderr == (
        "error: torch: cannot be imported: OSError: libcudart.so.13: cannot open shared object file; "
        "install it again\n"
    )


@pytest.mark.parametrize("verb", ["serve", "automate"])
def test_deployments_without_the_pipeline_are_one_line(site: Path, verb: str) -> None:
    ran = distillery(site, verb, module="flows.orchestration.deployments")
    assert ran.returncode == 2
    assert ran.stderr == (
        'error: this needs more than the base install (prefect): pip install "dds-distillery[pipeline]"\n'
    )


def test_a_missing_base_package_is_named(site: Path) -> None:
    for path in (site / "psutil", next(site.glob("psutil-*"))):
        path.unlink()
    ran = distillery(site, "doctor")
    assert ran.returncode == 2
    assert "error: base: for the command itself: lacks psutil: install the project again" in ran.stderr
    (site / "packaging").unlink()
    ran = distillery(site, "doctor")
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1)
    assert "the base install lacks packaging" in ran.stderr


@pytest.mark.parametrize("kind", ["text", "cut off", "absent"])
def test_a_broken_model_file_is_one_line(site: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.onnx"
    if kind == "text":
        path.write_text("not a model")
    elif kind == "cut off":
        write_model(path, properties())
        path.write_bytes(path.read_bytes()[:-100])
    ran = distillery(site, "doctor", str(path))
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: model file: ") and str(path) in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_pointer_is_followed_as_translate_does(site: Path, tmp_path: Path) -> None:
    pointer = tmp_path / "sofas.latest.json"
    (tmp_path / "run-7").mkdir()
    write_model(tmp_path / "run-7" / "model.onnx", properties())
    pointer.write_text('{"model": "run-7/model.onnx"}')
    ran = distillery(site, "doctor", str(pointer))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"{pointer}: 2 edits (red leather, blue fabric), on CPU" in " ".join(ran.stdout.split())
    for content, reason in (('{"model": "../../etc/model.onnx"}', "which is not RUN/model.onnx"), ("{}", "no model")):
        pointer.write_text(content)
        ran = distillery(site, "doctor", str(pointer))
        assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1)
        assert ran.stderr.startswith(f"error: model file: {pointer} names ") and reason in ran.stderr


def test_two_builds_of_onnx_runtime_are_broken(site: Path) -> None:
    fake_package(site, "onnxruntime_gpu", "1.31.1", "")
    ran = distillery(site, "doctor")
    assert ran.returncode == 2
    assert "onnxruntime-gpu 1.31.1 share their files: uninstall all of them, then install one" in ran.stderr


def test_without_onnx_runtime_the_page_says_what_needs_it(site: Path, tmp_path: Path) -> None:
    for path in (site / "onnxruntime", next(site.glob("onnxruntime-*"))):
        path.unlink()
    page = distillery(site, "doctor")
    assert (page.returncode, page.stderr) == (0, "")
    assert '! ONNX Runtime  not installed, and model files need it: pip install "dds-distillery[cpu]"' in page.stdout
    model = write_model(tmp_path / "model.onnx", properties())
    for verb in (
        ["inspect", str(model)],
        ["translate", str(model), "a.png", "--edit", "all"],
        ["doctor", str(model)],
    ):
        ran = distillery(site, *verb)
        assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
        assert 'ONNX Runtime, which is not installed: pip install "dds-distillery[cpu]" (' in ran.stderr
        assert '"dds-distillery[gpu]" (onnxruntime-gpu) on a machine with CUDA' in ran.stderr


def test_a_gpu_that_onnx_runtime_leaves_alone_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (note,) = [each for each in devices.onnx_runtime() if each.level is Level.NOTE]
    assert note.value.startswith("PyTorch sees a GPU and this ONNX Runtime is built without CUDA")
    assert note.value.endswith('pip uninstall onnxruntime, then pip install "dds-distillery[gpu]"')


def test_no_secret_is_shown(site: Path) -> None:
    environment = {
        "HF_TOKEN": SECRETS[0],
        "HTTPS_PROXY": f"http://user:{SECRETS[1]}@proxy.invalid:3128",
        "all_proxy": f"user:{SECRETS[1]}@proxy.invalid:3128",
        "http_proxy": f"http://{SECRETS[1]}@proxy.invalid",
        "HTTP_PROXY": f"http://user:a@b/{SECRETS[1]}@proxy.invalid/?token={SECRETS[2]}",
        "PREFECT_API_URL": f"http://user:{SECRETS[1]}@127.0.0.1:9/api",
    }
    ran = distillery(site, "doctor", **environment)
    assert not [secret for secret in SECRETS if secret in ran.stdout + ran.stderr]
    assert "HTTPS_PROXY  http://***@proxy.invalid:3128" in ran.stdout
    assert "all_proxy    ***@proxy.invalid:3128" in ran.stdout


def test_the_users_name_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jane")
    assert short("/home/jane/runs") == "~/runs"
    assert short("/home/jane") == "~"
    assert short("/home/janet/runs") == "/home/janet/runs"
    monkeypatch.setenv("HOME", "/")
    assert short("/srv/runs") == "/srv/runs"


def test_every_extra_says_what_it_is_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {packages.BASE, *extras} == set(packages.PURPOSES)


def test_modules_are_known_by_the_names_of_packages() -> None:
    """What is asked for by one name is often imported by another."""
    for extra, requirements in packages.requirements_of_extras().items():
        for each in requirements:
            if extra != "dev" and packages.installed_version(each.name):
                assert not packages.try_import(packages.module_name(each.name)).error, each.name


def test_an_installed_wheel_knows_its_extras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is no pyproject.toml, the package's own metadata says what it asks for."""
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    packages.requirements_of_extras.cache_clear()
    try:
        found = packages.requirements_of_extras()
    finally:
        packages.requirements_of_extras.cache_clear()
    assert "click" in [each.name for each in found[packages.BASE]]
    assert "torch" in [each.name for each in found["pipeline"]] and "torch" not in str(found[packages.BASE])
    assert [each.name for each in found["lora"]] == ["peft"]


def test_a_version_that_does_not_fit_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"pipeline": [Requirement("torch<2"), Requirement("click>=8")]}
    monkeypatch.setattr(packages, "requirements_of_extras", lambda: wanted)
    found = [each for each in packages.extras() if each.level is Level.BROKEN]
    assert found == [
        Finding("torch", f"{version('torch')} does not fit torch<2: pip install 'torch<2'", Level.BROKEN)
    ]
    wanted["pipeline"].append(Requirement("not-installed-here"))
    assert [each.value for each in packages.extras()] == [
        "for all that paints, trains, exports or measures: not installed, lacks not-installed-here"
    ]


def test_what_differs_from_the_lock_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    assert list(packages.lock()) == [], "a wheel has no lock"
    without_label = version("torch").partition("+")[0]
    same = f"# words\ntorch=={without_label}\nnot-installed==1\nclick==1 ; sys_platform == 'no'\n"
    (tmp_path / "constraints.txt").write_text(same)
    assert list(packages.lock()) == [Finding("lock", "1 packages, all as in constraints.txt")]
    (tmp_path / "constraints.txt").write_text(f"{same}numpy==1.0\n")
    assert list(packages.lock()) == [
        Finding("lock", f"1 of 2 packages differ: numpy {version('numpy')} (lock: 1.0)", Level.NOTE)
    ]


def test_a_check_that_fails_leaves_the_others() -> None:
    def of_luck() -> Iterator[Finding]:
        raise RuntimeError("bad\nluck")

    found = section("all", of_luck, lambda: [Finding("next", "fine")])
    assert found.findings == (
        Finding("of luck", "cannot be looked at: RuntimeError: bad", Level.BROKEN),
        Finding("next", "fine"),
    )
    assert broken([found, found]) == ["of luck: cannot be looked at: RuntimeError: bad"], "the same thing once"
    assert list(lines(found)) == [
        "all",
        "x of luck  cannot be looked at: RuntimeError: bad",
        "  next     fine",
    ]


def test_torch_is_described_and_tried() -> None:
    found = {each.name: each for each in devices.torch()}
    assert found["torch"].value.startswith(f"{torch.__version__}, built for ")
    assert found["torch"].value.endswith(f", {torch.get_num_threads()} threads")
    assert devices._tried(torch, "cpu", "a CPU") == Finding("cpu", "a CPU")
    refused = devices._tried(torch, "cuda:77", "a GPU")
    assert refused.level is Level.BROKEN and "does not compute" in refused.value


def test_a_quota_below_the_threads_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.setattr(machine, "quota_cores", lambda: 1.5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (found,) = machine.cores()
    assert found.level is Level.NOTE
    assert found.value.endswith("quota of 1.5: set OMP_NUM_THREADS=1, or threads wait for each other")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert [each.level for each in machine.cores()] == [Level.OK]


def test_a_folder_that_is_gone_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = {each.name: each for each in machine.disk()}
    assert found["working directory"] == Finding(
        "working directory", "no longer exists: change to another", Level.BROKEN
    )
    assert found["temporary files"].level is not Level.BROKEN


def test_the_hubs_cache_is_where_the_hub_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in (("XDG_CACHE_HOME", "huggingface/hub"), ("HF_HOME", "hub"), ("HF_HUB_CACHE", "")):
        monkeypatch.setenv(name, str(tmp_path / name))
        (found,) = machine.hub_cache()
        assert found.value.startswith(f"{tmp_path / name / folder}: ")


class PrefectServer(BaseHTTPRequestHandler):
    """Answers for the version as Prefect's server does, to those who have the password."""

    PASSWORD = "Basic ZGlzdGlsbGVyeTpyaWdodA=="  # distillery:right

    def do_GET(self) -> None:
        if self.path != "/api/admin/version":
            self.send_error(404)
        elif self.headers.get("Authorization") != self.PASSWORD:
            self.send_error(401)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(version("prefect")).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), PrefectServer) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_server_answers_or_says_why_not(address: str) -> None:
    def status(url: str, auth: str = "distillery:right") -> server.ServerStatus:
        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth}):
            return server_status()

    right = status(f"{address}/api")
    assert (right.server_version, right.problem) == (version("prefect"), None)
    assert status(f"{address}/api/") == server.ServerStatus(
        right.version, right.profile, None, f"{address}/api/", right.version
    )
    assert status(f"{address}/api", "distillery:wrong").problem == (
        "refuses the password: set PREFECT_API_AUTH_STRING as the server has it"
    )
    assert status(f"{address}/elsewhere").problem == (
        "is not a Prefect server's API: it answers with 404; check PREFECT_API_URL"
    )
    refused = status("http://127.0.0.1:9/api").problem or ""
    assert refused.startswith("does not answer ([Errno 111] Connection refused): start it")


def test_a_real_server_answers(prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS", 60.0)  # a busy machine is not what is tested
    found = server_status()
    assert found.url is not None and found.problem is None
    assert found.server_version == found.version == version("prefect")


def test_a_server_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url}):
            assert (server_status().problem or "").startswith("does not answer within 0.2 seconds: start it")


@pytest.mark.parametrize(
    ("profiles", "error"),
    [
        (
            'active = "work"\n[profiles.work]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n',
            "error: server: http://127.0.0.1:9/api does not answer ([Errno 111] Connection refused): start it with",
        ),
        (
            'active = "odd"\n[profiles.odd]\nPREFECT_SERVER_API_PORT = "text"\n',
            "error: Prefect: its settings cannot be read: ServerAPISettings.port: Input should be a valid integer",
        ),
        ("active = [", "error: Prefect: its settings cannot be read: Invalid value (at end of document)"),
        ('active = "gone"\n[profiles.work]\n', "error: profile: there is none named 'gone': choose another"),
    ],
)
def test_a_dead_profile_is_one_line(tmp_path: Path, profiles: str, error: str) -> None:
    """In a process of its own: Prefect reads its profiles when it is imported."""
    home = tmp_path / "home" / ".prefect"
    home.mkdir(parents=True)
    (home / "profiles.toml").write_text(profiles)
    found = run_services(tmp_path / "home")
    assert [line[: len(error)] for line in found if line.startswith("error")] == [error]
    assert (home / "profiles.toml").read_text() == profiles


def test_without_profiles_nothing_is_made_at_home(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    assert f"{version('prefect')}, profile ephemeral, no profiles" in run_services(tmp_path / "home")
    assert not list((tmp_path / "home").iterdir())


def test_the_whole_page_changes_nothing(tmp_path: Path) -> None:
    """Here, where all packages are: some make folders when they are imported, or set variables."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    environment |= {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "intranet"}
    command = [sys.executable, "-c", "from flows.cli import main; main()", "doctor", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=home, env=environment)
    assert (ran.returncode, ran.stderr) == (0, "")
    found = json.loads(ran.stdout)
    shown = {each["name"]: each["value"] for each in found["environment"]}
    assert shown == {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    services = {each["name"]: each["value"] for each in found["services"]}
    assert services["Prefect"] == f"{version('prefect')}, profile ephemeral, no profiles"
    assert (services["HTTPS_PROXY"], services["NO_PROXY"]) == ("http://127.0.0.1:9", "intranet")
    assert "no_proxy" not in services
    assert not list(home.rglob("*"))
    assert not list(temporary.glob("distillery*")), "torch makes a folder for its compiler there, in every program"


def run_services(home: Path) -> list[str]:
    """What the check of Prefect finds with this home."""
    program = (
        "from flows.doctor.examination import this_process\n"
        "from flows.doctor.services import prefect\n"
        "list(this_process())\n"
        "for each in prefect():\n"
        "    print(*(('error:', f'{each.name}:') if each.level.name == 'BROKEN' else ()), each.value)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=home,
        env={**environment, "HOME": str(home), "PYTHONPATH": str(ROOT)},
    )
    return ran.stdout.splitlines()


def test_the_login_is_told_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRETS[0])
    assert [each.value for each in services.hub()] == ["logged in, from the environment, offline by HF_HUB_OFFLINE"]
