"""The methods of the benchmark: fair budgets, and baselines."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from distill.evaluation.examples import drawn_examples
from distill.settings import EditSettings
from distill.studies.methods import CALLS, GRIDS, METHODS, DoNothing, Optimized, PerfectLatents, SDEdit, describe
from distill.zero_shot import edit
from synth.pixels import to_uint8
from synth.teacher.teacher import Teacher


def test_budgets_are_fair() -> None:
    """Every optimization spends the same calls, and every method tries as many settings."""
    swept = [method for grid in GRIDS.values() for method in grid]
    assert {method.calls for method in (*swept, *METHODS.values()) if isinstance(method, Optimized)} == {CALLS}
    assert {len(grid) for grid in GRIDS.values()} == {6}
    assert len({describe(method) for method in GRIDS["DDS"]}) == 6
    published = METHODS["DDS as published"]
    assert isinstance(published, Optimized)
    assert published.settings == EditSettings(learning_rate=2.0, guidance_scale=7.5, iterations=200)


def test_sdedit_moves_further_with_its_strength(tiny_teacher: Teacher) -> None:
    examples = drawn_examples({"color": "red"}, 2, "development")
    weak, strong = (SDEdit(strength, 2.0, 10)(tiny_teacher, examples) for strength in (0.1, 0.9))
    moved = [float(np.abs(images[0].astype(float) - examples[0].image).mean()) for images in (weak, strong)]
    assert 0 < moved[0] < moved[1]


@pytest.mark.parametrize("teacher", ["tiny_v_teacher", "tiny_3_teacher"])
def test_sdedit_knows_other_families(teacher: str, request: pytest.FixtureRequest) -> None:
    opened: Teacher = request.getfixturevalue(teacher)
    examples = drawn_examples({"color": "red"}, 2, "development")
    together, alone = (SDEdit(0.5, 2.0, 10)(opened, some) for some in (examples, examples[:1]))
    assert [image.shape for image in together] == [(128, 128, 3)] * 2
    assert np.abs(alone[0].astype(float) - together[0]).max() <= 2, "an image does not depend on its neighbours"


def test_latents_become_images_in_two_ways(tiny_teacher: Teacher) -> None:
    """Decoded they have the VAE's losses everywhere; composed, what was not edited keeps its own pixels."""
    examples = drawn_examples({"color": "red"}, 2, "development")
    inputs = np.stack([example.image for example in examples])
    nothing = DoNothing().edit(tiny_teacher, examples)
    round_trip = to_uint8(tiny_teacher.decode(tiny_teacher.encode(nothing.x)))
    np.testing.assert_array_equal(np.stack(nothing.composed()), inputs)
    own_size = [
        np.asarray(Image.fromarray(image).resize((128, 128), Image.Resampling.LANCZOS)) for image in round_trip
    ]
    np.testing.assert_array_equal(nothing.decoded(), own_size)


def test_perfect_latents_are_those_of_the_truth(tiny_teacher: Teacher) -> None:
    examples = drawn_examples({"color": "red"}, 2, "development")
    truths = [replace(example, image=example.truth) for example in examples if example.truth is not None]
    perfect, nothing = PerfectLatents().edit(tiny_teacher, examples), DoNothing().edit(tiny_teacher, truths)
    np.testing.assert_array_equal(perfect.z, nothing.z)
    np.testing.assert_array_equal(perfect.decoded(), nothing.decoded())


def test_an_optimized_edit_is_that_of_edit(tiny_teacher: Teacher) -> None:
    examples = drawn_examples({"color": "red"}, 2, "development")
    settings = EditSettings(iterations=2, learning_rate=1.0, guidance_scale=3.0)
    images = [example.pil_image for example in examples]
    prompts, sources = zip(*((example.prompt, example.source_prompt) for example in examples), strict=True)
    alone = edit(tiny_teacher, images, prompts, sources, settings)
    composed = Optimized(settings)(tiny_teacher, examples)
    np.testing.assert_array_equal(composed, [np.asarray(image) for image in alone.images])
