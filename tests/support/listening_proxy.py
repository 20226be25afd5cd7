"""A proxy that writes down who is called, and connects nobody."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synth.telemetry import TELEMETRY_OFF

_SILENCING = {  # in continuous integration ONNX Runtime and Prefect are silent by themselves, which proves nothing
    *("CI", "GITHUB_ACTIONS", "TF_BUILD", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL", "CODEBUILD_BUILD_ID"),
    *("BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER", "ORT_RUNNING_UNIT_TESTS"),
    *("DISABLE_TELEMETRY", "HF_HUB_OFFLINE", *TELEMETRY_OFF),
}


class ListeningProxy:
    """What is asked of it: `calls`, each the first line of a request."""

    def __init__(self, port: int) -> None:
        self.calls: list[str] = []
        self._url = f"http://127.0.0.1:{port}"

    def environment(self, home: Path) -> dict[str, str]:
        """An empty home, nothing that silences anybody, and all traffic but the loopback's comes here."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in _SILENCING and not name.startswith("PREFECT_") and not name.lower().endswith("_proxy")
        }
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), self._url)
        loopback = "127.0.0.1,localhost"
        return {
            **inherited,
            **proxies,
            **{name.upper(): url for name, url in proxies.items()},
            **{"no_proxy": loopback, "NO_PROXY": loopback, "OMP_NUM_THREADS": "1"},
            **{"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "TMPDIR": str(home)},
        }


@contextmanager
def listening_proxy() -> Iterator[ListeningProxy]:
    """Listen on a port of the loopback until the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = ListeningProxy(listener.getsockname()[1])
        threading.Thread(target=_write_down, args=(listener, proxy.calls), daemon=True).start()
        yield proxy


def _write_down(listener: socket.socket, calls: list[str]) -> None:
    while True:
        try:
            caller, _ = listener.accept()
        except OSError:  # the block has ended
            return
        with caller:
            caller.settimeout(5)
            calls.append(caller.recv(1024).partition(b"\r\n")[0].decode("latin-1"))
