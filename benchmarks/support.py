"""What the benchmarks share with the tests: the painter of noise, which the tests own and no package ships."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))  # a benchmark is a script: its path is its own

from noise_painter import NoisePainter

__all__ = ["NoisePainter"]
