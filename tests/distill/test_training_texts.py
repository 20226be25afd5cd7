"""The cache of a training's texts: what comes out is what the teacher says, within so many bytes."""

import pytest
import torch

from distill.training.texts import TextCache
from synth.teacher.teacher import Conditioning, Teacher

TEXTS = ["a red sofa", "a blue sofa", "", "a green sofa", "a sofa"]


class Asked:
    """Counts the texts that the teacher encodes, batch by batch."""

    def __init__(self, teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        encode = teacher.encode_prompt

        def counted(prompts: list[str]) -> Conditioning:
            self.batches.append(len(prompts))
            return encode(prompts)

        monkeypatch.setitem(vars(teacher), "encode_prompt", counted)


def test_each_text_is_encoded_alone_and_once(tiny_xl_teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    want = [tiny_xl_teacher.encode_prompt([text]) for text in TEXTS]
    asked, cache = Asked(tiny_xl_teacher, monkeypatch), TextCache(tiny_xl_teacher)
    for places in ([0, 1, 1], [2, 3], [4, 0]):
        got = cache([TEXTS[place] for place in places])
        for row, place in enumerate(places):
            assert torch.equal(got.prompt_embeds[row], want[place].prompt_embeds[0])
            pooled = want[place].pooled_prompt_embeds
            assert got.pooled_prompt_embeds is not None and pooled is not None
            assert torch.equal(got.pooled_prompt_embeds[row], pooled[0])
    assert asked.batches == [1] * 5


def test_what_is_kept_stays_within_its_bytes(tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    size = tiny_teacher.null.num_bytes
    asked, cache = Asked(tiny_teacher, monkeypatch), TextCache(tiny_teacher, max_bytes=2 * size)
    for text in ("a red sofa", "a blue sofa", "a red sofa", "a sofa"):  # the third one forgets the blue one
        cache([text])
    assert cache._num_bytes == 2 * size and list(cache._kept) == ["a red sofa", "a sofa"]
    assert len(asked.batches) == 3
    cache(["a blue sofa"])
    assert len(asked.batches) == 4
    # More than fit, at once: each is there where it is needed.
    want = tiny_teacher.encode_prompt(TEXTS).prompt_embeds
    torch.testing.assert_close(cache(TEXTS).prompt_embeds, want)


def test_all_texts_are_encoded_in_batches_or_none(tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    want = tiny_teacher.encode_prompt(TEXTS)
    asked = Asked(tiny_teacher, monkeypatch)
    assert not TextCache(tiny_teacher, max_bytes=4 * tiny_teacher.null.num_bytes).encode_all(TEXTS)
    cache = TextCache(tiny_teacher)
    assert cache.encode_all([*TEXTS, *TEXTS])
    assert asked.batches == [5]
    torch.testing.assert_close(cache(TEXTS).prompt_embeds, want.prompt_embeds)
    assert asked.batches == [5]
    # No text holds its batch's memory.
    assert all(each.prompt_embeds.untyped_storage().nbytes() == each.num_bytes for each in cache._kept.values())
