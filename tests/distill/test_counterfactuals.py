"""The benchmark, with methods whose quality is known because they cheat, each in its own way."""

import subprocess
import sys

import numpy as np
import pytest

from distill.evaluation.counterfactuals import (
    DO_NOTHING,
    VAE_CEILING,
    EditMetrics,
    average,
    choose_scenes,
    evaluate_edits,
    grid_image,
)
from distill.evaluation.metrics import MAX_PSNR, Images
from synth.errors import RecipeError
from synth.world.scenes import WorldScene, render, sample_scene

SIZE = 64

EDITS = {"red-leather": {"color": "red", "material": "leather"}, "blue": {"color": "blue"}}


class Oracle:
    """Knows every drawing by heart: edits perfectly, and reads perfectly what it has seen."""

    def __init__(self, scenes: list[WorldScene]) -> None:
        self.known: dict[bytes, WorldScene] = {}
        for scene in scenes:
            for version in (scene, *(scene.replace(**factors) for factors in EDITS.values())):
                for again in (version, *(version.replace(**factors) for factors in EDITS.values())):
                    self.known[render(again, SIZE).image.tobytes()] = again

    def __call__(self, images: Images, edit: str) -> Images:
        return np.stack([render(self.known[image.tobytes()].replace(**EDITS[edit]), SIZE).image for image in images])

    def read(self, images: Images) -> dict[str, list[str]]:
        seen = [self.known.get(image.tobytes()) for image in images]
        return {
            factor: [scene.factors[factor] if scene else "?" for scene in seen] for factor in ("color", "material")
        }


@pytest.fixture(scope="module")
def scenes() -> list[WorldScene]:
    return choose_scenes(EDITS, 6, "test")


@pytest.fixture(scope="module")
def oracle(scenes: list[WorldScene]) -> Oracle:
    return Oracle(scenes)


def rows_of(rows: list[EditMetrics]) -> dict[tuple[str, str, str], EditMetrics]:
    return {(row.edit, row.method, row.scenes): row for row in rows}


def a_little_off(images: Images) -> Images:
    """A stand-in for a VAE: every value off by 5, which is 10 log10(255^2 / 25) = 34.15 dB."""
    return np.where(images < 128, images + 5, images - 5).astype(np.uint8)


def test_a_perfect_edit_is_perfect_and_doing_nothing_is_not(scenes: list[WorldScene], oracle: Oracle) -> None:
    rows = rows_of(evaluate_edits(oracle, EDITS, scenes, a_little_off, oracle, 3, SIZE, method="oracle"))
    assert len(rows) == 2 * 3 * 2
    for edit in EDITS:
        row = rows[edit, "oracle", "edited"]
        assert (row.psnr_all, row.psnr_inside, row.psnr_outside) == (MAX_PSNR,) * 3
        assert (row.ssim_all, row.ssim_inside, row.ssim_outside) == pytest.approx((1, 1, 1))
        assert (row.psnr_outside_to_input, row.right) == (MAX_PSNR, 1)
        nothing = rows[edit, DO_NOTHING, "edited"]
        assert nothing.psnr_inside is not None and nothing.psnr_inside < 30
        assert nothing.psnr_outside == nothing.psnr_outside_to_input == MAX_PSNR  # the world's own promise
        assert nothing.right == 0
        ceiling = rows[edit, VAE_CEILING, "edited"]
        for value in (ceiling.psnr_all, ceiling.psnr_inside, ceiling.psnr_outside, ceiling.psnr_outside_to_input):
            assert value == pytest.approx(10 * np.log10(255**2 / 25))


def test_no_op_scenes_are_scored_apart_as_preservation(scenes: list[WorldScene], oracle: Oracle) -> None:
    already = scenes[0].replace(**EDITS["blue"])
    rows = rows_of(evaluate_edits(oracle, EDITS, [already, *scenes[1:]], a_little_off, oracle, 3, SIZE))
    are_blue = sum(scene.factors["color"] == "blue" for scene in [already, *scenes[1:]])
    assert rows["blue", "student", "edited"].num_scenes == len(scenes) - are_blue
    assert rows["blue", "student", "no-op"].num_scenes == 3
    untouched = rows["blue", DO_NOTHING, "no-op"]
    assert (untouched.psnr_all, untouched.psnr_inside, untouched.right) == (MAX_PSNR, MAX_PSNR, 1)

    def clumsy(images: Images, edit: str) -> Images:
        return a_little_off(oracle(images, edit))

    harmed = rows_of(evaluate_edits(clumsy, EDITS, scenes, a_little_off, oracle, 3, SIZE))["blue", "student", "no-op"]
    assert harmed.psnr_all == pytest.approx(34.15, abs=0.01) and harmed.right == 0


def test_combinations_that_no_teacher_saw_are_scored_once_more() -> None:
    scenes = [sample_scene("test", index, "room").replace(color="pink", material="fabric") for index in range(3)]
    scenes[1] = scenes[1].replace(material="leather")  # pink leather is held out
    oracle = Oracle(scenes)

    def clumsy(images: Images, edit: str) -> Images:
        edited = oracle(images, edit)
        edited[1] = 0
        return edited

    rows = rows_of(evaluate_edits(clumsy, {"blue": EDITS["blue"]}, scenes, a_little_off, oracle, 0, SIZE))
    edited, held_out = rows["blue", "student", "edited"], rows["blue", "student", "held-out"]
    assert (edited.num_scenes, held_out.num_scenes) == (3, 1)
    assert held_out.psnr_all is not None and held_out.psnr_all < 20 and held_out.right == 0
    assert rows["blue", DO_NOTHING, "held-out"].num_scenes == 1


def test_damage_outside_is_seen_outside_alone(scenes: list[WorldScene], oracle: Oracle) -> None:
    def smudging(images: Images, edit: str) -> Images:
        edited = oracle(images, edit)
        edited[:, :2, :, :] = 0  # the ceiling, which no sofa reaches
        return edited

    row = rows_of(evaluate_edits(smudging, EDITS, scenes, a_little_off, oracle, 0, SIZE))["blue", "student", "edited"]
    assert row.psnr_inside == MAX_PSNR
    assert row.psnr_outside is not None and row.psnr_outside < 30
    assert row.psnr_outside == pytest.approx(row.psnr_outside_to_input)
    assert row.ssim_inside is not None and row.ssim_outside is not None and row.ssim_outside < row.ssim_inside


def test_a_set_without_no_op_scenes_has_no_metrics(scenes: list[WorldScene], oracle: Oracle) -> None:
    row = rows_of(evaluate_edits(oracle, EDITS, scenes, a_little_off, oracle, 0, SIZE))["blue", "student", "no-op"]
    assert (row.num_scenes, row.psnr_all, row.right) == (0, None, None)


def test_the_average_weighs_edits_alike(scenes: list[WorldScene], oracle: Oracle) -> None:
    rows = evaluate_edits(oracle, EDITS, scenes, a_little_off, oracle, 2, SIZE)
    means = {(row.method, row.scenes): row for row in average(rows)}
    assert len(means) == 6
    each = [row.psnr_inside for row in rows if (row.method, row.scenes) == (DO_NOTHING, "edited")]
    assert means[DO_NOTHING, "edited"].psnr_inside == pytest.approx(np.mean([value for value in each if value]))


def test_scenes_fit_the_edits_or_the_drawn_world_says_so() -> None:
    weather = choose_scenes({"snow": {"weather": "snowing"}}, 5, "test")
    assert all(scene.kind == "plant" and "weather" in scene.factors for scene in weather)
    assert choose_scenes(EDITS, 3, "test") == choose_scenes(EDITS, 5, "test")[:3]
    clear = choose_scenes({"snow": {"weather": "snowing"}}, 5, "test", {"weather": "clear"})
    assert clear == [scene.replace(weather="clear") for scene in weather] != weather
    with pytest.raises(RecipeError, match=r"'evaluation.given': no weather is 'fine'"):
        choose_scenes({"snow": {"weather": "snowing"}}, 5, "test", {"weather": "fine"})
    with pytest.raises(RecipeError, match="cannot judge edits of breed"):
        choose_scenes({"lion": {"breed": "lion"}}, 1, "test")
    with pytest.raises(RecipeError, match="cannot judge edits of character, color"):
        choose_scenes({"a": {"color": "red"}, "b": {"character": "zombie"}}, 1, "test")
    with pytest.raises(RecipeError, match="'teal': no color is 'teal'"):
        choose_scenes({"teal": {"color": "teal"}}, 1, "test")


def test_the_grid_shows_input_translated_and_truth(scenes: list[WorldScene], oracle: Oracle) -> None:
    page = np.asarray(grid_image(oracle, EDITS, scenes[:2], SIZE))
    shown = {page[y : y + SIZE, x : x + SIZE].tobytes() for y, x in corners(page.shape)}
    for scene in scenes[:2]:
        assert render(scene, SIZE).image.tobytes() in shown
        for factors in EDITS.values():
            assert render(scene.replace(**factors), SIZE).image.tobytes() in shown


def corners(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(y, x) for y in range(shape[0] - SIZE + 1) for x in range(shape[1] - SIZE + 1)]


def test_it_imports_no_torch() -> None:
    modules = "distill.evaluation.counterfactuals, distill.settings, distill.training.schedules"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_sharpness_is_that_of_the_truth_or_less_when_blurred(scenes: list[WorldScene], oracle: Oracle) -> None:
    from PIL import Image, ImageFilter

    def blurred(images: Images, edit: str) -> Images:
        blur = ImageFilter.GaussianBlur(2)
        return np.stack([np.asarray(Image.fromarray(image).filter(blur)) for image in oracle(images, edit)])

    sharp, soft = (
        rows_of(evaluate_edits(translate, EDITS, scenes[:2], lambda images: images, oracle, 1, SIZE))[
            "red-leather", "student", "edited"
        ]
        for translate in (oracle, blurred)
    )
    assert sharp.sharpness_inside == pytest.approx(1)
    assert soft.sharpness_inside is not None and soft.sharpness_inside < 0.6
