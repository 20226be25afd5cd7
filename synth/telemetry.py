"""Switches off the telemetry of libraries, except where the user's environment allows it."""

import os

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",  # Prefect's client, and others that follow the convention
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and so transformers, diffusers and datasets
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime, which also writes a device id into the user's cache
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # Prefect's server, and the clients that ask it
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables that the libraries read on their first import, and the value that silences each."""


def switch_off() -> None:
    """Set the variables of `TELEMETRY_OFF` that the environment lacks. Call it before the libraries are imported."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
