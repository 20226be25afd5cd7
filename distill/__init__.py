"""The Delta Denoising Score, and the students distilled with it."""

import synth  # noqa: F401  # telemetry is off before anything heavy is imported
