"""The drawn world: pure, and a changed factor changes nothing outside the silhouettes."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from synth.world import shifted
from synth.world.captions import captions
from synth.world.scenes import FACTORS, HELD_OUT, MASK_OF, SPLITS, WorldScene, render, sample_scene

EDITS = [
    ("room", "color"),
    ("room", "material"),
    ("plant", "flower"),
    ("plant", "weather"),
    ("portrait", "character"),
]


def outdoors(index: int, split: str = "test") -> WorldScene:
    return next(
        scene
        for scene in (sample_scene(split, index * 50 + step, "plant") for step in range(50))
        if "weather" in scene.factors
    )


def test_a_scene_is_drawn_the_same_every_time() -> None:
    for kind in FACTORS:
        scene = sample_scene("train", 3, kind)
        assert scene == sample_scene("train", 3, kind)
        assert np.array_equal(render(scene).image, render(scene).image)
        assert render(scene).image.shape == (128, 128, 3)


def test_other_seeds_and_sizes_give_other_images() -> None:
    first, second = (sample_scene("train", index, "room") for index in (0, 1))
    assert not np.array_equal(render(first).image, render(second).image)
    assert render(first, size=64).image.shape == (64, 64, 3)


@pytest.mark.parametrize("split", ["test", "shifted"])
@pytest.mark.parametrize(("kind", "factor"), EDITS)
def test_a_counterfactual_differs_only_inside_silhouettes(kind: str, factor: str, split: str) -> None:
    """Over all pairs of values of every edit factor, exactly."""
    for index in range(4):
        scene = outdoors(index, split) if factor == "weather" else sample_scene(split, index, kind)
        drawings = [render(scene.replace(**{factor: value})) for value in FACTORS[kind][factor]]
        for a, b in itertools.combinations(drawings, 2):
            union = a.masks[MASK_OF[factor]] | b.masks[MASK_OF[factor]]
            assert np.array_equal(a.image[~union], b.image[~union])
            assert not np.array_equal(a.image[union], b.image[union])


def test_masks_cover_a_sensible_part_of_the_image() -> None:
    for kind, name, least, most in (
        ("room", "sofa", 0.10, 0.40),
        ("plant", "flower", 0.03, 0.45),
        ("portrait", "person", 0.2, 0.75),
    ):
        for index in range(20):
            share = render(sample_scene("test", index, kind)).masks[name].mean()
            assert least < share < most, (kind, index, share)


def test_the_shifted_split_is_drawn_in_other_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [sample_scene("shifted", index, "room") for index in range(20)]
    assert all(scene.shifted for scene in scenes) and not sample_scene("test", 0).shifted
    drawn = [render(scene) for scene in scenes]
    plain = [render(replace(scene, shifted=False)) for scene in scenes]
    assert all((a.image != b.image).mean() > 0.5 for a, b in zip(drawn, plain, strict=True))
    assert all(drawing.masks["sofa"].mean() > 0.08 for drawing in drawn)
    monkeypatch.setattr(shifted, "clutter", lambda *_: None)
    bare = [render(scene).masks["sofa"] for scene in scenes]
    assert not any((drawing.masks["sofa"] & ~mask).any() for drawing, mask in zip(drawn, bare, strict=True))
    hidden = [(mask & ~drawing.masks["sofa"]).mean() for drawing, mask in zip(drawn, bare, strict=True)]
    assert sum(share > 0.01 for share in hidden) > 10  # what stands in front is cut out of the silhouette


def test_held_out_combinations_are_in_no_training_split() -> None:
    scenes = {split: [sample_scene(split, index) for index in range(1500)] for split in SPLITS}
    assert not any(scene.held_out for split in ("train", "development") for scene in scenes[split])
    seen = {pair for scene in scenes["test"] for pair in HELD_OUT if set(pair) <= set(scene.factors.items())}
    assert seen == set(HELD_OUT)
    assert any(scene.held_out for scene in scenes["shifted"])
    seeds = [{scene.seed for scene in scenes[split]} for split in SPLITS]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(seeds, 2))


def test_every_value_of_every_factor_is_drawn() -> None:
    for kind, factors in FACTORS.items():
        scenes = [sample_scene("train", index, kind) for index in range(400)]
        for factor, values in factors.items():
            assert {scene.factors[factor] for scene in scenes if factor in scene.factors} == set(values)


def test_captions_are_pure_and_never_name_another_value() -> None:
    """Captions are pure and varied, and never name another value."""
    for index in range(100):
        scene = sample_scene("train", index, "room")
        written = captions(scene, 8, seed=1)
        assert written == captions(scene, 8, seed=1)
        assert len(set(written)) > 1
        for caption in written:
            said = caption.replace(",", "").split()
            for material in FACTORS["room"]["material"]:
                assert material not in said or scene.factors["material"] == material


def test_a_wrong_factor_or_value_is_refused_by_name() -> None:
    scene = sample_scene("train", 0, "room")
    with pytest.raises(ValueError, match="no factor 'flower'"):
        scene.replace(flower="roses")
    with pytest.raises(ValueError, match="color cannot be 'teal'"):
        scene.replace(color="teal")
    with pytest.raises(ValueError, match="no split 'training'"):
        sample_scene("training", 0)
