"""What a run says before, between and after its stages."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import paint, small_recipe

from flows.cli.results import print_times
from flows.config.loading import load_recipe
from flows.planning.forecast import Speed, Work, announce, measure_speed, seconds_of_stages, table, work_left
from flows.run.folder import RunFolder

SPEED = Speed(seconds_per_painting_pass=0.01, seconds_per_training_pass=0.02, seconds_per_decode=0.1)


def test_estimates_count_passes_and_decodes() -> None:
    recipe = load_recipe("demo", ["scenes.num_inference_steps=8", "training.batch_size=4"])
    seconds = seconds_of_stages(recipe, Work(images=200, steps=100, measured=60), SPEED)
    assert list(seconds) == ["painting", "training", "export", "measuring"]
    assert seconds["painting"] == pytest.approx(200 * (16 * 0.01 + 0.1))
    edits = recipe.training.edits_per_image
    assert isinstance(edits, int) and edits < len(recipe.edits)
    assert seconds["training"] == pytest.approx(1.25 * 100 * 4 * (2 + 5 * edits) * 0.02)
    small = Work(images=0, steps=0, measured=0, pixel_steps=50)
    speed = replace(SPEED, seconds_per_pixel_step=0.3)
    after = seconds_of_stages(recipe, small, speed)
    assert list(after) == ["compress", "export"], "the student is trained"
    assert after["compress"] == pytest.approx(200 * (1 + 6) * 0.1 + 50 * 0.3), "a plain decode, and all six edits"
    all_edits = load_recipe("demo", ["training.edits_per_image=all"])
    whole = seconds_of_stages(all_edits, Work(0, 100, 0), SPEED)
    assert list(whole) == ["training", "export"]
    assert whole["training"] == pytest.approx(1.25 * 100 * 4 * (2 + 5 * 6) * 0.02)


def test_what_is_done_is_not_counted_again(tiny_sd_folder: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tiny_sd_folder)
    run = RunFolder.open_or_create(recipe, tmp_path / "run")
    assert work_left(recipe, run) == Work(images=6, steps=4, measured=0)
    paint(small_recipe(tiny_sd_folder, "scenes.count=4"), run.dataset)
    (run.checkpoints / "step_000003").mkdir(parents=True)
    assert work_left(recipe, run) == Work(images=2, steps=1, measured=0)
    demo = load_recipe("demo", ["evaluation.num_scenes=7", "evaluation.num_no_op_scenes=9"])
    left = work_left(demo, RunFolder(tmp_path / "none"))
    assert left.measured == 6 * (7 + 7) and left.pixel_steps == demo.pixel.steps


def test_the_speed_is_measured(tiny_sd_folder: Path) -> None:
    speed = measure_speed(small_recipe(tiny_sd_folder, "scenes.image_size=64"))
    assert 0 < speed.seconds_per_painting_pass < 1
    assert 0 < speed.seconds_per_training_pass < 1
    assert 0 < speed.seconds_per_decode < 1
    assert speed.seconds_per_pixel_step == 0, "the recipe wants no pixel network"
    assert 0 < measure_speed(small_recipe(tiny_sd_folder, "pixel.size=small")).seconds_per_pixel_step < 10


def test_a_table_ends_with_the_sum() -> None:
    assert table({"painting": 50.0, "training": 600.0}, {"training": "420 steps"}) == [
        "  painting      50 s",
        "  training    10 min   420 steps",
        "  in all      11 min",
    ]


def test_a_trained_run_is_announced_by_nothing(
    finished: Path, tiny_sd_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    announce(small_recipe(tiny_sd_folder), RunFolder(finished))
    assert caplog.text == ""


@pytest.mark.parametrize("key", ['runner="ray"', "processes=2", 'accelerate_config="of-a-cluster.yaml"'])
def test_nothing_is_said_of_others_speed(tiny_sd_folder: Path, tmp_path: Path, key: str) -> None:
    assert announce(small_recipe(tiny_sd_folder, f"operations.{key}"), RunFolder(tmp_path / "run")) == {}


def test_a_run_says_what_it_does(finished_and_said: tuple[Path, str]) -> None:
    out, said = finished_and_said
    # Before: the stages with their estimates, those that will run and no other.
    before, _, rest = said.partition("painting 6 images")
    announced = re.findall(r"^  (\w+(?: \w+)?) +[\d.]+ (?:s|min|h|days)", before, re.MULTILINE)
    assert announced == ["painting", "training", "export", "in all"]
    assert "6 images" in before and "4 steps of 2 images, 6 edits each" in before
    # Between: where the first thing to look at is, before the training starts.
    look, _, rest = rest.partition("distilling from ")
    assert f"to look at: {out}/dataset/grid.png" in look
    assert (out / "dataset" / "grid.png").exists()
    # After: what each stage took.
    _, _, after = rest.partition("what each stage took:")
    assert re.findall(r"^  (\w+(?: \w+)?) ", after, re.MULTILINE) == ["painting", "training", "export", "in all"]
    # Nothing of a library in between.
    for noise in ("Prefect", "prefect", "HTTP", "Loading", "[transformers]", "Warning", "torchvision", "huggingface"):
        assert noise not in said, noise


def test_no_times_are_shown_where_there_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_times(tmp_path)
    assert capsys.readouterr().out == ""
