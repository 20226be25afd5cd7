"""Whether it is said that PyTorch sees a GPU and ONNX Runtime does not use it."""

import sys

import onnxruntime as ort
import pytest
import torch

from inference import idle_gpu
from inference.idle_gpu import warn_of_idle_gpu

CPU, CUDA = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a card that PyTorch sees."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    idle_gpu._warn_once.cache_clear()


@pytest.mark.usefixtures("gpu")
def test_one_line_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_idle_gpu(CUDA)
    assert not caplog.records
    warn_of_idle_gpu(CPU)
    warn_of_idle_gpu(CPU)
    (record,) = caplog.records
    assert record.message == (
        "PyTorch sees a GPU and this ONNX Runtime is built without CUDA, so model files run on the CPU: "
        'pip uninstall onnxruntime, then pip install "dds-distillery[gpu]"'
    )


@pytest.mark.usefixtures("gpu")
def test_a_build_that_does_not_start_is_told_apart(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: CUDA)
    warn_of_idle_gpu(CPU)
    (record,) = caplog.records
    assert record.message.startswith(
        "PyTorch sees a GPU and ONNX Runtime cannot use it: its CUDA libraries are missing"
    )


def test_without_torch_or_a_card_nothing_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    warn_of_idle_gpu(CPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)  # AMD's GPUs, which are cuda to PyTorch
    warn_of_idle_gpu(CPU)
    monkeypatch.delitem(sys.modules, "torch")
    warn_of_idle_gpu(CPU)
    assert not caplog.records
