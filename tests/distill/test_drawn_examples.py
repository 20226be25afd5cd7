"""Drawn edits: they differ where they should, and nowhere else."""

import pytest

from distill.evaluation.examples import drawn_examples
from synth.errors import RecipeError
from synth.world.scenes import HELD_OUT


def test_examples_differ_only_in_the_edit() -> None:
    """In the edited words of the texts, and inside the mask of the images."""
    for factors in ({"color": "red", "material": "leather"}, {"flower": "roses"}, {"character": "zombie"}):
        for example in drawn_examples(factors, 3, "development"):
            assert example.truth is not None and example.mask is not None
            changed = (example.image != example.truth).any(axis=2)
            assert changed.any() and not (changed & ~example.mask).any()
            before, after = example.source_prompt.split(), example.prompt.split()
            assert all(value.split()[0] in after for value in factors.values())
            assert sum(word not in before for word in after) <= 3, "only the edited words differ"
    sunny = drawn_examples({"weather": "sunset"}, 2, "development", weather="clear")
    assert all(example.scene is not None and example.scene.factors["weather"] == "clear" for example in sunny)


def test_scenes_that_show_the_edit_already_are_refused() -> None:
    with pytest.raises(RecipeError, match="already are what the edit"):
        drawn_examples({"weather": "sunset"}, 1, "test", weather="sunset")


def test_no_scene_shows_what_is_held_out() -> None:
    for pair in HELD_OUT:
        with pytest.raises(RecipeError, match="held out of training"):
            drawn_examples({"wall": "white"}, 1, "test", **dict(pair))
