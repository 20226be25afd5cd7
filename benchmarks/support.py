"""What the benchmarks share with the tests: a painter of noise, which belongs to the tests and is not shipped."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))  # a script finds only its own folder

from noise_painter import NoisePainter

__all__ = ["NoisePainter"]
