"""Orchestration: recipes, the command, and the Prefect flows that join the other rooms. No maths here."""

import os

# Nothing is reported to anybody unless the user says so. The libraries read this when they are first imported.
for _name, _value in {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)
