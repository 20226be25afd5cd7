"""`distillery preview` with a tiny teacher; its verdict, its grid and its estimates."""

import html
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import SMALL, command

from distill.costs import A100, STABLE_DIFFUSION_15
from distill.evaluation.diagnostics import ChangeMetrics, Diagnostic
from distill.training.untrained import num_weights
from flows.config.loading import load_recipe
from flows.planning.disk import Sizes, disk_of
from flows.planning.estimates import Rates, cost_of, cost_on
from flows.planning.preview import Grid, judge
from flows.reports.preview_cells import Cell
from synth.teacher.teacher import Teacher

PAPER = load_recipe(
    "sofas",
    ["training.preset=paper", "training.steps=125_000", "training.lambda_id_steps=20_000", "scenes.image_size=512"],
)


def small(teacher: Path) -> list[str]:
    return ["--teacher", str(teacher), *(word for key in SMALL for word in ("--set", key))]


def test_the_page_has_every_setting_and_the_verdict_is_printed(tiny_sd_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "look.html"
    options = ["--guidance", "2,4", "--iterations", "1,2", "--num-examples", "12", "--dollars-per-hour", "1"]
    result = command("preview", "sofas", *small(tiny_sd_folder), *options, "--out", out)
    assert result.exit_code == 0, result.output
    page = out.read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 12 * (1 + 4), "the inputs, and each at four settings"
    for edit in load_recipe("sofas").edits:
        assert f"<h2>{edit}</h2>" in page
    assert page.count("guidance 4, 2 iterations<br>") == 6
    assert not re.search(r"(src|href)=\"(?!data:)", page), "the page needs no other file"
    lines = result.stdout.splitlines()
    assert lines[-1].startswith(("go, if", "no-go: ")) and lines[-2] == f"page  {out}"
    assert "the full run: 6 images, 4 steps of 2" in lines[0]
    assert re.search(r"dollars at 1 an hour$", lines[1])
    assert re.match(r"memory: 0\.\d+ GB in training, at most; this preview took at most ", lines[2])
    assert lines[4] == "named devices: no known speeds for a teacher of this size"


def test_photographs_replace_painted_scenes(tiny_sd_folder: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    recipe = tmp_path / "masks.toml"
    edits = ["--edit", "red=a red sofa", "--edit", "blue=a blue sofa"]
    command("init", "masks", "--photos", "--subject", "a sofa", *edits, "--out", recipe)
    options = ["--teacher", tiny_sd_folder, "--guidance", "2", "--iterations", "1", "--out", tmp_path / "look.html"]
    result = command("preview", recipe, "--images", photos, *options)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "look.html").read_text()
    assert page.count("<img ") == 2 * 2 * 3, "two edits of three photographs, before and after"
    assert '"a sofa" -> "a blue sofa"' in html.unescape(page)
    assert "the full run: 3 images" in result.stdout and "to paint" not in result.stdout
    many = command("preview", "sofas", "--images", photos, *options)
    assert many.exit_code == 2 and "`distillery init NAME --photos` write a recipe of photographs" in many.stderr
    (photos / "0.png").write_bytes(b"no image")
    broken = command("preview", recipe, "--images", photos, *options)
    assert broken.exit_code == 2 and "0.png cannot be used as an image" in broken.stderr
    (tmp_path / "look.html").write_text("mine")
    refused = command("preview", recipe, "--images", photos, *options)
    assert refused.exit_code == 2 and "look.html is there, and no preview wrote it" in refused.stderr
    assert (tmp_path / "look.html").read_text() == "mine"


def test_lists_of_numbers_are_checked() -> None:
    for wrong in ("0.5,2", "2,nan"):
        assert "each must be 1 or more" in command("preview", "sofas", "--guidance", wrong).stderr
    assert "not a list of numbers" in command("preview", "sofas", "--iterations", "10;20").stderr


def cell(edit: str, guidance_scale: float, *diagnostics: str) -> Cell:
    metrics = ChangeMetrics(0.1, 0.0, 0.0, 1.0)
    return Cell(
        edit, guidance_scale, 100, [], metrics, [Diagnostic(name, "so much", "turn it") for name in diagnostics]
    )


def test_every_edit_needs_one_setting_without_diagnostics() -> None:
    cells = [cell("a", 2, "nothing moves"), cell("a", 4), cell("b", 2), cell("b", 4, "background lost")]
    go, line = judge(cells)
    assert go and line.endswith(
        "no diagnostic speaks against a (guidance 4, 100 iterations), b (guidance 2, 100 iterations)"
    )
    go, line = judge([*cells, cell("c", 2, "nothing moves"), cell("c", 4, "nothing moves", "colours saturate")])
    assert not go and line == "no-go: c: nothing moves (so much); turn it"


def test_the_grid_follows_teacher_and_device(tiny_teacher: Teacher) -> None:
    grid = Grid.of(tiny_teacher)
    assert (grid.guidance_scales, grid.iterations, grid.learning_rate) == ((7.5, 15.0, 30.0), (20, 40), 4.0)
    assert Grid.of(tiny_teacher, [9], [5, 3]) == Grid((9,), (3, 5), 4.0)


def test_costs_equal_those_computed_by_hand() -> None:
    cost = cost_of(PAPER, Rates(seconds_per_image=2.0, seconds_per_pass=0.01, dollars_per_hour=3.6))
    assert cost.painting_seconds == 5000 * 2
    assert cost.training_seconds == pytest.approx(125_000 * 2 * (2 + 5 * 6) * 0.01)
    assert cost.dollars == pytest.approx((cost.painting_seconds + cost.training_seconds) / 1000)
    sizes = Sizes(image=400_000, pixels=786_432, latent=65_536, student=1_000, learned=1_000, vae=10)
    without = 5000 * (440_000 + 65_536) + 3 * 3 * 1_000 + 2 * 1_000 + 10
    plain = PAPER.model_copy(update={"pixel": PAPER.pixel.model_copy(update={"size": "none"})})
    assert disk_of(plain, sizes, 5000) == without
    assert disk_of(PAPER, sizes, 5000) == without + 5000 * (1 + 2) * 786_432, "an image and what is made of it"


def test_a_named_device_reproduces_its_assumptions() -> None:
    """0.803 TFLOP a pass and 2.515 a decode, at 92 TFLOP a second; below 0.157 s a step Python is too slow."""
    scenes = PAPER.to_paint().model_copy(update={"num_inference_steps": 50})
    four = PAPER.model_copy(update={"edits": dict(list(PAPER.edits.items())[:4]), "scenes": scenes})
    cost = cost_on(A100, four, STABLE_DIFFUSION_15)
    assert cost.training_seconds == pytest.approx(125_000 * 2 * (2 + 5 * 4) * 0.803 / 92)
    assert cost.painting_seconds == pytest.approx(5000 * (100 * 0.803 + 2.515) / 92)
    assert cost.dollars == pytest.approx(2 * (cost.painting_seconds + cost.training_seconds) / 3600)
    one = four.model_copy(update={"edits": dict(list(PAPER.edits.items())[:1])})
    assert cost_on(A100, one, STABLE_DIFFUSION_15).training_seconds == pytest.approx(125_000 * 0.157)


def test_disk_is_near_what_a_run_takes(finished: Path, tiny_teacher: Teacher) -> None:
    """The estimate from the number of parameters, compared with the files of a finished run."""
    recipe = load_recipe(finished / "recipe.toml")
    student = 4 * num_weights(tiny_teacher, dict.fromkeys(recipe.edits, ""), recipe.training)[0]
    found = [
        sum(p.stat().st_size for p in (finished / name).rglob("*.safetensors")) for name in ("student", "checkpoints")
    ]
    assert found[0] == pytest.approx(student, rel=0.2)
    estimated = disk_of(
        recipe, Sizes(image=0, pixels=0, latent=0, student=student, learned=student, vae=0), num_images=6
    )
    assert found[1] <= estimated <= 2 * (found[0] + found[1])
