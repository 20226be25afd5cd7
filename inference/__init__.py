"""What ships: export, and a runtime without PyTorch."""

import synth  # noqa: F401  # telemetry is off before anything heavy is imported
