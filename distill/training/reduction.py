"""Sums the gradients of several processes, in a few large messages instead of one for each weight."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BUCKET_BYTES = 100 * 2**20  # a network's latency is lost in it, and its copy is small beside the gradients


def sum_over_processes(weights: Sequence[Tensor], figures: Tensor, bucket_bytes: int = BUCKET_BYTES) -> None:
    """Replace each weight's gradient, and the figures, by the sum over all processes. A collective call.

    Args:
        weights: the same on every process, in the same order. A weight without a gradient counts as zero.
        figures: float32 (n,), summed in place.
        bucket_bytes: a message is filled up to this size; a weight that is larger has one of its own.
    """
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    for bucket in _buckets([*(weight.grad for weight in weights if weight.grad is not None), figures], bucket_bytes):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        torch.distributed.all_reduce(flat)
        pieces = torch.split(flat, [tensor.numel() for tensor in bucket])
        for tensor, piece in zip(bucket, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))


def _buckets(tensors: Sequence[Tensor], max_bytes: int) -> Iterator[list[Tensor]]:
    """Group tensors in their order: one type each, as many as fit."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(each.nbytes for each in bucket) + tensor.nbytes > max_bytes
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
