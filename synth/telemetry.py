"""No library reports to its makers what is done here, unless the user's environment says that it may."""

import os

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",  # Prefect's client, and whoever follows the convention
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and through it transformers, diffusers and datasets
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime, which also writes a device id into the user's cache
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # Prefect's server, and the clients that ask it
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables that the libraries read when they are first imported, and the value that silences each."""


def switch_off() -> None:
    """Set every variable of `TELEMETRY_OFF` that the environment does not have; call it before heavy imports."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
