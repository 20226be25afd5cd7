"""What the teacher's network reads of texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Move a tensor. A copy from the CPU to a GPU goes through pinned memory, and does not wait for the GPU."""
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def rows_of(tensor: Tensor, indices: Sequence[int]) -> Tensor:
    """Choose rows by numbers that the host knows. A plain list as an index would wait for the GPU to be done."""
    return tensor[to_device(torch.tensor(indices, dtype=torch.int64), tensor.device)]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the network reads of N texts. Each field is set for all of them or for none."""

    prompt_embeds: Tensor
    """float (N, T, D)."""
    pooled_prompt_embeds: Tensor | None = None
    """float (N, P), where the family has them."""
    time_ids: Tensor | None = None
    """float (N, 6), only for XL, in pixels: height and width of the original, top and left of the crop, height and
    width of the target. None: those of an uncropped image of the latents' own size."""

    def __getitem__(self, index: Any) -> "Conditioning":
        """Choose texts; a list of numbers does not wait for a GPU."""
        if isinstance(index, list):
            return self._each(lambda tensor: rows_of(tensor, index))
        return self._each(lambda tensor: tensor[index])

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def expand(self, num: int) -> "Conditioning":
        """Repeat one text for `num` samples."""
        return self._each(lambda tensor: tensor.expand(num, *tensor.shape[1:]))

    @property
    def num_bytes(self) -> int:
        """What its tensors take."""
        tensors = (self.prompt_embeds, self.pooled_prompt_embeds, self.time_ids)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def to(self, device: torch.device | str) -> "Conditioning":
        """Move it; a copy to a GPU does not wait for it."""
        return self._each(lambda tensor: to_device(tensor, device))

    def clone(self) -> "Conditioning":
        """Copy the tensors."""
        return self._each(lambda tensor: tensor.clone())

    @staticmethod
    def cat(conditionings: "list[Conditioning]") -> "Conditioning":
        """Concatenate along the batch."""

        def join(tensors: list[Tensor | None]) -> Tensor | None:
            there = [tensor for tensor in tensors if tensor is not None]
            assert len(there) in (0, len(tensors))
            return torch.cat(there) if there else None

        return Conditioning(
            torch.cat([each.prompt_embeds for each in conditionings]),
            join([each.pooled_prompt_embeds for each in conditionings]),
            join([each.time_ids for each in conditionings]),
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        pooled, time_ids = self.pooled_prompt_embeds, self.time_ids
        return Conditioning(
            change(self.prompt_embeds),
            None if pooled is None else change(pooled),
            None if time_ids is None else change(time_ids),
        )
