"""Gradients travel between processes in a few large messages."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill.training import reduction


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of one process: what it sums is what it gives."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("bucket_bytes", "messages"), [(1, 5), (40, 3), (10**6, 2)])
def test_messages_are_filled_and_every_gradient_returns(
    group: None, monkeypatch: pytest.MonkeyPatch, bucket_bytes: int, messages: int
) -> None:
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (1, 1, 2))]
    weights.append(torch.nn.Parameter(torch.zeros(3, dtype=torch.float64)))
    for weight in weights[:1] + weights[2:]:
        weight.grad = torch.randn_like(weight)
    want = [torch.zeros(4) if weight.grad is None else weight.grad.clone() for weight in weights]
    figures, sizes = torch.tensor([3.0, 4.0], dtype=torch.float64), []
    all_reduce = torch.distributed.all_reduce

    def doubled(flat: Tensor) -> None:
        sizes.append(flat.numel())
        all_reduce(flat)
        flat *= 2  # as if another process had the same

    monkeypatch.setattr(torch.distributed, "all_reduce", doubled)
    reduction.sum_over_processes(weights, figures, bucket_bytes)
    assert len(sizes) == messages and sum(sizes) == 6 + 4 + 2 + 3 + 2
    for weight, tensor in zip(weights, want, strict=True):
        assert weight.grad is not None and torch.equal(weight.grad, 2 * tensor)
    assert figures.tolist() == [6.0, 8.0]
