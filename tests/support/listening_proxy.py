"""A proxy that records which hosts are called, and connects to none."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synth.telemetry import TELEMETRY_OFF

_SILENCING = {  # ONNX Runtime and Prefect are silent in continuous integration, which would prove nothing
    *("CI", "GITHUB_ACTIONS", "TF_BUILD", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL", "CODEBUILD_BUILD_ID"),
    *("BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR", "BITBUCKET_BUILD_NUMBER", "ORT_RUNNING_UNIT_TESTS"),
    *("DISABLE_TELEMETRY", "HF_HUB_OFFLINE", *TELEMETRY_OFF),
}


class ListeningProxy:
    """Its `calls` are the first lines of the requests that it got."""

    def __init__(self, port: int) -> None:
        self.calls: list[str] = []
        self._url = f"http://127.0.0.1:{port}"

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a new user, without anything that silences telemetry, whose traffic comes to this proxy.

        Traffic of the loopback is exempt.
        """
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
    """Listen on a loopback port until the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = ListeningProxy(listener.getsockname()[1])
        threading.Thread(target=_record_calls, args=(listener, proxy.calls), daemon=True).start()
        yield proxy


def _record_calls(listener: socket.socket, calls: list[str]) -> None:
    while True:
        try:
            caller, _ = listener.accept()
        except OSError:  # the block has ended
            return
        with caller:
            caller.settimeout(5)
            calls.append(caller.recv(1024).partition(b"\r\n")[0].decode("latin-1"))
