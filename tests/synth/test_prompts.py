"""Templates: pure, without repeats, grammatical, and strict about their slots."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth.dataset.prompts import PhotoTexts, Template
from synth.errors import RecipeError
from synth.settings import PhotoTextSettings, SceneSettings

SOFAS: dict[str, Any] = {
    "template": "a {color} {material} sofa in a living room with {wall} walls",
    "slots": {
        "color": ["red", "orange", "grey"],
        "material": ["leather", "velvet"],
        "wall": ["white", "green", "blue", "yellow"],
    },
    "count": 100,
}


def template(**overrides: Any) -> Template:
    return Template(SceneSettings(**{**SOFAS, **overrides}))


def test_a_scene_depends_only_on_its_index() -> None:
    first, second = template(), template()
    forwards = [first.scene(index) for index in range(50)]
    backwards = [second.scene(index) for index in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert [scene.index for scene in forwards] == list(range(50))
    assert template(count=7, batch_size=3).scene(40) == forwards[40]


def test_combinations_come_once_per_turn() -> None:
    """None comes twice before all have come once."""
    scenes = template()
    assert scenes.num_combinations == 24
    turns = [[scenes.scene(index).prompt for index in range(turn * 24, turn * 24 + 24)] for turn in range(3)]
    assert all(len(set(turn)) == 24 for turn in turns)
    assert turns[0] != turns[1] != turns[2]


def test_weights_say_how_often_a_value_comes() -> None:
    weighted = {"color": {"red": 3, "grey": 1}, "material": ["leather", "velvet"], "wall": {"white": 2, "blue": 1}}
    scenes = template(slots=weighted)
    assert scenes.num_combinations == 24
    shown = Counter(scenes.scene(index).prompt for index in range(24))
    assert shown["a red velvet sofa in a living room with white walls"] == 6
    assert shown["a grey leather sofa in a living room with blue walls"] == 1
    with pytest.raises(ValueError, match="greater than 0"):
        template(slots={**weighted, "wall": {"white": 0}})


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1),
    st.integers(0, 2**40),
    st.integers(0, 999),
)
def test_scenes_are_pure_and_without_repeats(sizes: dict[str, int], seed: int, start: int) -> None:
    slots = {name: [f"{name}{value}" for value in range(size)] for name, size in sizes.items()}
    text = " ".join(f"{{{name}}}" for name in sizes)
    scenes = Template(SceneSettings(template=text, slots=slots, count=1, seed=seed))
    turn = range(scenes.num_combinations * start, scenes.num_combinations * (start + 1))
    prompts = [scenes.scene(index).prompt for index in list(turn)[:300]]
    assert len(set(prompts)) == len(prompts)
    again = Template(SceneSettings(template=text, slots=slots, count=7, seed=seed))
    assert again.scene(turn[0]) == scenes.scene(turn[0])


@pytest.mark.parametrize("num_values", [1, 2, 3, 4, 5, 16, 17, 255, 256, 257, 1000])
def test_the_shuffle_is_a_permutation_at_every_size(num_values: int) -> None:
    scenes = template(template="a {thing}", slots={"thing": [f"thing{number}" for number in range(num_values)]})
    shown = [scenes.scene(index).slots["thing"] for index in range(num_values)]
    assert len(set(shown)) == num_values
    if num_values > 16:
        assert shown != sorted(shown, key=lambda name: int(name[5:]))


def test_seeds_differ_between_scenes_and_recipes() -> None:
    seeds = {template(seed=seed).scene(index).seed for seed in range(3) for index in range(200)}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert [template(seed=1).scene(i).slots for i in range(9)] != [template(seed=2).scene(i).slots for i in range(9)]


@pytest.mark.parametrize(
    ("value", "phrase"),
    [
        ("red", "a red sofa"),
        ("orange", "an orange sofa"),
        ("unusual", "an unusual sofa"),
        ("unique", "a unique sofa"),
        ("uniform", "a uniform sofa"),
        ("used", "a used sofa"),
        ("European", "a European sofa"),
        ("one-armed", "a one-armed sofa"),
        ("honest", "an honest sofa"),
        ("house", "a house sofa"),
        ("8-seat", "an 8-seat sofa"),
        ("3D", "a 3D sofa"),
        ("", "a sofa"),
    ],
)
def test_the_article_agrees_with_what_follows(value: str, phrase: str) -> None:
    for written in ("a {kind} sofa", "an {kind} sofa"):
        scenes = template(template=written, slots={"kind": ["plain"]})
        assert scenes.render({"kind": value}) == phrase
        assert scenes.edited({"kind": "plain"}, {"kind": value}) == phrase


def test_an_article_skips_an_empty_slot() -> None:
    scenes = template(
        template="A {size} {color} sofa, a lamp{rest}.", slots={"size": [""], "color": ["x"], "rest": [""]}
    )
    assert scenes.render({"size": "", "color": "orange", "rest": " and a rug"}) == "An orange sofa, a lamp and a rug."
    assert scenes.render({"size": "big", "color": "orange", "rest": ""}) == "A big orange sofa, a lamp."
    assert scenes.render({"size": "", "color": "", "rest": ""}) == "A sofa, a lamp."


def test_an_edit_replaces_only_its_slots() -> None:
    scene = template().scene(5)
    wall = scene.slots["wall"]
    edited = template().edited(scene.slots, {"color": "amber", "material": "striped"})
    assert edited == f"an amber striped sofa in a living room with {wall} walls"
    assert template().edited(scene.slots, {}) == scene.prompt


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"template": "a sofa"}, "no {slot}"),
        ({"template": SOFAS["template"] + " and a {rug} rug"}, "no 'rug'"),
        ({"template": "a {colour} {material} sofa, {wall} walls"}, "did you mean 'color'"),
        ({"template": "a {color} {material} sofa"}, "scenes.slots.wall is never used"),
        ({"template": SOFAS["template"] + " {"}, "stray braces"),
        ({"template": SOFAS["template"] + " {a rug}"}, "stray braces"),
        ({"template": SOFAS["template"] + " {{color}}"}, "stray braces"),
        ({"slots": {**SOFAS["slots"], "wall": ["white", "blue", "white"]}}, "lists 'white' more than once"),
    ],
)
def test_a_wrong_template_is_refused_in_one_line(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        template(**overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_edit_of_an_unknown_slot_is_refused() -> None:
    with pytest.raises(RecipeError, match="did you mean 'color'"):
        template().edited(template().scene(0).slots, {"colour": "red"})


@pytest.mark.parametrize("source", ["A photo of a person.", ""])
def test_photographs_share_one_pair_of_prompts(source: str) -> None:
    texts = PhotoTexts(PhotoTextSettings(source=source))
    assert texts.source("IMG_0042") == source
    assert texts.target("IMG_0042", {}, {"target": "A photo of a zombie."}) == "A photo of a zombie."
    for edit in ({"person": "zombie"}, {"target": " "}, {"target": "a", "other": "b"}):
        with pytest.raises(RecipeError, match=r"photos\.source is one prompt for all"):
            texts.target("", {}, edit)


@pytest.mark.parametrize(
    ("caption", "target"),
    [
        ("A cat on a sofa", "An otter on a sofa"),
        ("the Cat, asleep", "the otter, asleep"),
        ("a kitten and a cat", "an otter cub and an otter"),
        ("catalogue of concatenated cats", "catalogue of concatenated cats"),
        ("", ""),
    ],
)
def test_words_of_captions_are_replaced_with_articles(caption: str, target: str) -> None:
    texts = PhotoTexts(PhotoTextSettings())
    assert texts.source(caption) == caption
    assert texts.target(caption, {}, {"cat": "otter", "kitten": "otter cub"}) == target


def test_an_edit_of_captions_without_words_is_refused() -> None:
    with pytest.raises(RecipeError, match="maps words to their replacements"):
        PhotoTexts(PhotoTextSettings()).target("a cat", {}, {" ": "lion"})


@pytest.mark.parametrize(
    "caption, edited", [("a SİVAS dog", "a grey cat dog"), ("a ſivas", "a grey cat"), ("the sivas", "the grey cat")]
)
def test_letters_that_match_without_folding_alike(caption: str, edited: str) -> None:
    texts = PhotoTexts(PhotoTextSettings())
    assert texts.target(caption, {}, {"sivas": "grey cat"}) == edited
