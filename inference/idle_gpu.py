"""Says so where PyTorch has a GPU and ONNX Runtime does not use it."""

import logging
import sys
from collections.abc import Sequence
from functools import cache

from inference.runtime import PROVIDERS, best_providers

logger = logging.getLogger(__name__)


def warn_of_idle_gpu(in_use: Sequence[str]) -> None:
    """Warn in one line, once, if a session runs on the CPU though PyTorch, if it is imported, sees a GPU of NVIDIA's.

    Args:
        in_use: a session's providers.
    """
    if in_use[0] == PROVIDERS["cpu"] and (line := idle_gpu()) is not None:
        _warn_once(line)


def idle_gpu() -> str | None:
    """Why ONNX Runtime leaves a GPU alone that PyTorch sees; None if it does not, or PyTorch is not imported."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.version.cuda or not torch.cuda.is_available():
        return None
    if PROVIDERS["cuda"] in best_providers():
        return (
            "PyTorch sees a GPU and ONNX Runtime cannot use it: its CUDA libraries are missing or older than the "
            "driver, see `distillery doctor`"
        )
    return (
        "PyTorch sees a GPU and this ONNX Runtime is built without CUDA, so model files run on the CPU: "
        'pip uninstall onnxruntime, then pip install "dds-distillery[gpu]"'
    )


@cache
def _warn_once(line: str) -> None:
    logger.warning(line)
