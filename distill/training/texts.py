"""The conditioning of a training's texts: encoded once, kept in the CPU's memory, and brought to the networks."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from synth.teacher.teacher import Conditioning, Teacher

_MAX_BYTES = 4 * 2**30  # 35,000 texts of Stable Diffusion 1.x in half precision
_BATCH = 64  # texts


class TextCache:
    """Texts -> their conditioning on the teacher's device.

    On a CPU each text is encoded alone, when it is first asked for, so that it does not depend on its neighbours. On
    a GPU `encode_all` may encode all of them in batches, after which the encoders leave the card.

    Args:
        teacher: whose text encoders are asked.
        max_bytes: what the texts may take; those that were used longest ago are encoded again when they are needed.
    """

    def __init__(self, teacher: Teacher, max_bytes: int = _MAX_BYTES) -> None:
        self._teacher = teacher
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Conditioning] = OrderedDict()  # the one used longest ago first
        self._num_bytes = 0

    def __call__(self, texts: Sequence[str]) -> Conditioning:
        """Return the conditioning of N texts."""
        found = []
        for text in texts:
            if text not in self._kept:
                self._keep([text])
            self._kept.move_to_end(text)
            found.append(self._kept[text])
            self._forget()
        return Conditioning.cat(found).to(self._teacher.device)

    def encode_all(self, texts: Iterable[str]) -> bool:
        """Encode texts in batches, and move the text encoders to the CPU, unless the texts take too much memory.

        Returns:
            Whether it was done.
        """
        distinct = list(dict.fromkeys(texts))
        if len(distinct) * self._teacher.null.num_bytes > self._max_bytes:
            return False
        for start in range(0, len(distinct), _BATCH):
            self._keep(distinct[start : start + _BATCH])
        self._teacher.park_encoders()
        return True

    def _keep(self, texts: Sequence[str]) -> None:
        encoded = self._teacher.encode_prompt(list(texts)).to("cpu")
        for place, text in enumerate(texts):
            # A copy: a view would keep its whole batch.
            self._kept[text] = encoded[place : place + 1].clone() if len(texts) > 1 else encoded
            self._num_bytes += self._kept[text].num_bytes

    def _forget(self) -> None:
        while self._num_bytes > self._max_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= oldest.num_bytes
