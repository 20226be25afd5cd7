"""Recipes: what is read, what is refused, and what a run folder accepts."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from flows.config.loading import load_recipe, recipe_names, validate, with_overrides
from flows.config.schema import flatten
from flows.config.toml import to_toml
from flows.run.folder import RunFolder
from synth.dataset.prompts import Template
from synth.errors import RecipeError, RunError


def test_the_recipes_that_come_with_the_project_are_valid() -> None:
    assert recipe_names() == ["cats", "characters", "demo", "flowers", "sofas", "weather", "zombie"]
    sofas, demo = load_recipe("sofas"), load_recipe("demo")
    assert sofas.scenes.count == 5000
    assert set(sofas.edits) == {
        *("black-leather", "brown-leather", "purple-velvet", "yellow-velvet", "red-leather", "blue-fabric")
    }
    assert demo.edits == sofas.edits
    assert demo.scenes.template == sofas.scenes.template
    assert demo.scenes.count < sofas.scenes.count


def test_an_edit_keeps_the_rest_of_the_prompt() -> None:
    recipe = load_recipe("sofas")
    template = Template(recipe.scenes)
    slots = {
        **{"color": "orange", "material": "fabric", "room": "living room"},
        **{"wall": "grey", "floor": "wooden", "thing": "a window"},
    }
    rest = "sofa in a living room with grey walls, a wooden floor and a window"
    assert template.render(slots) == f"an orange fabric {rest}"
    assert template.edited(slots, recipe.edits["purple-velvet"]) == f"a purple velvet {rest}"


@pytest.mark.parametrize("name", ["sofas", "demo"])
def test_a_resolved_recipe_reads_back_as_itself(name: str) -> None:
    recipe = load_recipe(name, ['scenes.negative_prompt=é "quoted" \\ back', "scenes.guidance_scale=2.5"])
    assert validate(tomllib.loads(to_toml(recipe))) == recipe


def test_overrides_are_toml_values_or_text() -> None:
    recipe = load_recipe(
        "demo",
        ["training.steps=7", "training.learning_rate = 1e-4", "teacher.id=some/model", 'edits.pink={color="pink"}'],
    )
    assert (recipe.training.steps, recipe.training.learning_rate) == (7, 1e-4)
    assert recipe.teacher.id == "some/model"
    assert recipe.edits["pink"] == {"color": "pink"}
    assert "red-leather" in recipe.edits


def test_a_file_extends_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "sofas"\nname = "mine"\n[training]\nsteps = 3\n')
    recipe = load_recipe(path)
    assert (recipe.name, recipe.training.steps) == ("mine", 3)
    assert recipe.edits == load_recipe("sofas").edits


def test_a_file_may_have_the_name_of_what_it_extends(tmp_path: Path) -> None:
    path = tmp_path / "sofas.toml"
    path.write_text('extends = "sofas"\n[scenes]\ncount = 7\n')
    assert load_recipe(path).to_paint().count == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stepz=3", "unknown key training.stepz; did you mean 'steps'?"),
        ("teachr.id=x", "unknown key teachr; did you mean 'teacher'?"),
        ("training.steps=many", "training.steps: input should be a valid integer"),
        ("training.preset=best", "training.preset: input should be 'short', 'paper' or 'compact', not 'best'"),
        ("training.paper.stepz=3", "unknown key training.paper.stepz; did you mean 'steps'?"),
        ("training.short.preset=paper", "unknown key training.short.preset"),
        ("training.short=3", "unknown key training.short"),
        ("scenes.count=0", "scenes.count: input should be greater than 0, not 0"),
        (
            "edits.Red={color='red'}",
            "edits.Red is not an edit's name: use lower-case letters, digits and hyphens",
        ),
        ("edits.red={colour='red'}", "'colour', which is not a slot of the template; did you mean 'color'?"),
        ("edits.red={}", "edits.red replaces no slot"),
        ("scenes.template=a {colr} sofa", "did you mean 'color'?"),
        ("name.first=x", "name is a value, and has no keys below it"),
        ("steps", "is not key=value"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("demo", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_and_broken_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'sofas'"):
        load_recipe("sofa")
    with pytest.raises(RecipeError, match=r"there is no recipe file .*none\.toml"):
        load_recipe(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(RecipeError, match="cannot be read as TOML"):
        load_recipe(broken)
    broken.write_text('extends = "broken"')
    with pytest.raises(RecipeError, match="extends 'broken', which is none of cats, characters, demo, flowers"):
        load_recipe(broken)


def test_keys_are_flat_and_an_edit_is_one_value() -> None:
    flat = flatten(load_recipe("demo"))
    assert flat["scenes.count"] == 200
    assert flat["edits.red-leather"] == {"color": "red", "material": "leather"}


def test_a_run_folder_is_for_one_recipe(tmp_path: Path) -> None:
    out = tmp_path / "run"
    RunFolder.open_or_create(load_recipe("demo", ["teacher.id=mistyped"]), out)
    RunFolder.open_or_create(load_recipe("demo"), out)
    assert RunFolder(out).load_recipe() == load_recipe("demo"), "nothing was made yet, so nothing is refused"
    RunFolder.open_or_create(load_recipe("demo"), out)
    (out / "dataset").mkdir()
    with pytest.raises(RunError, match=r"its scenes\.seed is 0, this recipe's is 1"):
        RunFolder.open_or_create(load_recipe("demo", ["scenes.seed=1"]), out)
    (out / "checkpoints").mkdir()
    with pytest.raises(RunError, match=r"its training\.learning_rate is 0\.001, this recipe's is 0\.1"):
        RunFolder.open_or_create(load_recipe("demo", ["training.learning_rate=0.1"]), out)
    with pytest.raises(RunError, match=r"its edits\.pink is None"):
        RunFolder.open_or_create(load_recipe("demo", ['edits.pink={color="pink"}']), out)
    assert RunFolder(out).load_recipe() == load_recipe("demo"), "a refused recipe leaves no trace"


def test_a_set_is_painted_for_any_training(tmp_path: Path) -> None:
    """After a look at the painted images, the edits and the training may be others."""
    out = tmp_path / "run"
    RunFolder.open_or_create(load_recipe("demo"), out)
    (out / "dataset").mkdir()
    other = load_recipe("demo", ["training.guidance_end=4", 'edits.pink={color="pink"}'])
    RunFolder.open_or_create(other, out)
    assert RunFolder(out).load_recipe() == other


def test_a_run_may_grow_and_be_measured_otherwise(tmp_path: Path) -> None:
    out = tmp_path / "run"
    RunFolder.open_or_create(load_recipe("demo"), out)
    (out / "dataset").mkdir()
    longer = load_recipe("demo", ["training.steps=500", "scenes.count=300", "evaluation.num_scenes=3"])
    RunFolder.open_or_create(longer, out)
    with pytest.raises(RunError, match=r"scenes\.count is 300"):
        RunFolder.open_or_create(load_recipe("demo"), out)
    (out / "checkpoints" / "step_000040").mkdir(parents=True)
    more = load_recipe("demo", ["training.steps=500", "scenes.count=400"])
    with pytest.raises(RunError, match=r"scenes\.count is 300, this recipe's is 400"):
        RunFolder.open_or_create(more, out)


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="not a run folder, and not empty"):
        RunFolder.open_or_create(load_recipe("demo"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is not a run folder: `distillery run"):
        RunFolder(tmp_path).load_recipe()


def test_a_preset_s_table_holds_with_that_preset_alone() -> None:
    omegas = {
        override: load_recipe("characters", [override] if override else []).training.guidance_end
        for override in ("", "teacher.id=some/model", "training.preset=paper", "training.guidance_end=4")
    }
    assert omegas == {
        **{"": 3.5, "teacher.id=some/model": 25, "training.preset=paper": 25},
        "training.guidance_end=4": 4,
    }
    resolved = load_recipe("characters")
    assert validate(resolved.model_dump(mode="json", exclude_none=True)) == resolved


def test_a_resolved_recipe_changes_key_by_key() -> None:
    sofas = load_recipe("sofas")
    assert with_overrides(sofas, []) == sofas
    other = with_overrides(sofas, ["training.seed=3", "teacher.id=some/model"])
    assert other == load_recipe("sofas", ["training.seed=3", "teacher.id=some/model"])
    assert (other.training.preset, other.training.learning_rate) == ("paper", 1e-5), "another teacher, its own preset"
    mine = with_overrides(
        load_recipe("sofas", ["training.preset=paper"]), ["training.steps=9", "teacher.id=some/model"]
    )
    assert (mine.training.preset, mine.training.steps) == ("paper", 9), "what was chosen by hand stays"
    assert with_overrides(other, ["teacher.id=miniature"]) == load_recipe("sofas")
    assert with_overrides(sofas, ["teacher.id=some/model", "training.preset=short"]).training.steps == 1250
    small = with_overrides(other, ["training.student=compact", "training.seed=5"]).training
    assert (small.preset, small.student, small.learning_rate, small.seed) == ("compact", "compact", 1e-3, 5)
    assert load_recipe("sofas", ["teacher.id=some/model", "training.student=compact"]).training.preset == "compact"
    back = with_overrides(load_recipe("sofas", ["training.student=compact"]), ["teacher.id=some/model"]).training
    assert (back.preset, back.student) == ("compact", "compact"), "the kind of student stays"
    published = with_overrides(sofas, ["training.seed=3", "training.preset=paper"])
    assert (published.training.steps, published.training.seed) == (125_000, 3), "a new preset brings its own values"
    with pytest.raises(RecipeError, match="did you mean 'steps'"):
        with_overrides(sofas, ["training.stepz=3"])
    with pytest.raises(RecipeError, match="teacher"):
        with_overrides(sofas, ["teacher=some/model"])
    with pytest.raises(RecipeError, match="is not key=value"):
        with_overrides(sofas, ["training.steps"])


def test_the_default_folder_is_the_recipe_s_own() -> None:
    sofas = RunFolder.default_path(load_recipe("sofas"))
    assert sofas.parent.name == "runs" and sofas.name.startswith("sofas-")
    same = ["export.opset=21", "operations.keep_runs=3", "teacher.device=cpu", "training.checkpoint_every=7"]
    assert RunFolder.default_path(load_recipe("sofas", same)) == sofas
    for another in ("training.steps=7", "scenes.count=7", "teacher.id=some/model", "edits.grey={color='grey'}"):
        assert RunFolder.default_path(load_recipe("sofas", [another])) != sofas


PHOTOS = """
name = "zombies"
[photos]
source = "A photo of a person."
[edits]
zombie = { target = "A photo of a zombie." }
"""


def test_a_recipe_of_photographs_has_texts_and_paints_nothing(tmp_path: Path) -> None:
    path = tmp_path / "zombies.toml"
    path.write_text(PHOTOS)
    recipe = load_recipe(path)
    assert recipe.texts().target("", {}, recipe.edits["zombie"]) == "A photo of a zombie."
    assert load_recipe_from(to_toml(recipe), tmp_path) == recipe
    with pytest.raises(
        RecipeError, match="nothing to paint: import your photographs with `distillery import-photos`"
    ):
        recipe.to_paint()


def test_a_recipe_has_scenes_or_photographs(tmp_path: Path) -> None:
    path = tmp_path / "both.toml"
    path.write_text('extends = "sofas"\n[photos]\nsource = ""\n')
    with pytest.raises(RecipeError, match=r"either \[scenes\].* or \[photos\]"):
        load_recipe(path)
    path.write_text(PHOTOS.replace("target", "person"))
    with pytest.raises(RecipeError, match=r"photos\.source is one prompt for all, so an edit is"):
        load_recipe(path)


def load_recipe_from(text: str, folder: Path) -> object:
    path = folder / "again.toml"
    path.write_text(text)
    return load_recipe(path)


def test_no_order_of_keys_means_anything() -> None:
    """A server that keeps its parameters in Postgres' jsonb hands them on in an order of its own."""
    recipe = load_recipe("flowers")
    shuffled = validate(_reversed(recipe.model_dump(mode="json", exclude_none=True)))
    assert list(shuffled.edits) == list(recipe.edits) == ["dahlias", "daisies", "roses", "tulips"]
    ours, theirs = recipe.texts(), shuffled.texts()
    assert isinstance(ours, Template) and isinstance(theirs, Template)
    assert [ours.scene(i) for i in range(50)] == [theirs.scene(i) for i in range(50)]


def _reversed(value: Any) -> Any:
    return {key: _reversed(value[key]) for key in reversed(value)} if isinstance(value, dict) else value
