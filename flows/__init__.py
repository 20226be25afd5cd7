"""Recipes, the command line, and the Prefect flows that run the other packages. No maths here."""

import synth  # noqa: F401  # turns telemetry off before anything heavy is imported
