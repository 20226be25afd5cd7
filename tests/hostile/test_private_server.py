"""The private Prefect server of a run answers only this run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER = """
import os, sys
from flows.orchestration.environment import prepare
prepare()
import httpx
from prefect.client.orchestration import get_client
from prefect.server.api.server import SubprocessASGIServer
server = SubprocessASGIServer()
server.start(timeout=120)
try:
    url, evil = server.api_url, {"Origin": "https://evil.example"}
    asked = {**evil, "Access-Control-Request-Method": "POST"}
    body = {"name": "evil"}
    print(*(httpx.get(f"{url}{path}").status_code for path in ("/admin/version", "/csrf-token?client=me")))
    print(httpx.post(f"{url}/flows/", json=body).status_code)
    answers = [
        httpx.get(f"{url}/health", headers=evil),
        httpx.post(f"{url}/flows/filter", json={}, headers=evil),
        httpx.options(f"{url}/flows/", headers=asked),
    ]
    print([answer.headers.get("access-control-allow-origin") for answer in answers])
    user, _, secret = os.environ["PREFECT_API_AUTH_STRING"].partition(":")
    print(httpx.post(f"{url}/flows/", json=body, auth=(user, secret)).status_code)
    with get_client(sync_client=True) as client:
        print(client.create_flow_from_name("ours"))
finally:
    server.stop()
"""
PREPARE = """
import os
from flows.orchestration.environment import prepare
prepare()
print(os.environ.get("PREFECT_API_AUTH_STRING"))
"""


def prepared(home: Path, program: str, **variables: str) -> list[str]:
    """Run a program for a user with the empty folder `home` and these variables; returns its output's lines."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(ROOT), **variables}
    ended = subprocess.run([sys.executable, "-c", program], cwd=home, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.parametrize("own_home", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_neither_a_program_nor_a_web_page_gets_in(tmp_path: Path, own_home: bool) -> None:
    """Also where the user has a Prefect folder but no server, since the private server is as reachable there."""
    variables = {"PREFECT_HOME": str(tmp_path / "prefect")} if own_home else {}
    unread, unwritten, pages, without_token, flow = prepared(tmp_path, SERVER, **variables)
    assert unread == "401 401" and unwritten == "403"
    assert pages == "[None, None, None]"
    assert without_token == "403"  # the password is not enough, which a browser may send for a page
    assert len(flow) == 36  # the run's own client has password and token


def test_each_run_has_its_own_secret(tmp_path: Path) -> None:
    first, second = (prepared(tmp_path, PREPARE) for _ in range(2))
    assert first != second and all(len(output[0]) > 40 for output in (first, second))


def test_a_server_of_the_users_own_keeps_its_secret(tmp_path: Path) -> None:
    url = "http://127.0.0.1:4200/api"
    assert prepared(tmp_path, PREPARE, PREFECT_API_URL=url) == ["None"]
    assert prepared(tmp_path, PREPARE, PREFECT_API_URL=url, PREFECT_API_AUTH_STRING="me:mine") == ["me:mine"]
    (tmp_path / ".prefect").mkdir()
    (tmp_path / ".prefect" / "profiles.toml").write_text(
        f'active = "local"\n[profiles.local]\nPREFECT_API_URL = "{url}"\n'
    )
    assert prepared(tmp_path, PREPARE) == ["None"]
