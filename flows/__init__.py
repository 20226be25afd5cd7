"""Orchestration: recipes, the command, and the Prefect flows that join the other packages. No maths here."""

import synth  # noqa: F401  # telemetry is off before anything heavy is imported
