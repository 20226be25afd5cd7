"""Recipes and edits in other scripts: names, files, keys, and what each tool writes into TOML."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from small_runs import command

from flows.config.edit_syntax import parse_photo_text, parse_scene_text, slot_values
from flows.config.loading import load_recipe
from flows.config.toml import to_toml
from flows.orchestration.artifacts import artifact_key
from flows.run.folder import RunFolder
from flows.run.promotion import pointer_of
from synth.errors import RecipeError

IN_PIECES = unicodedata.normalize("NFD", "зимний")


def prompts(path: Path, edit: str) -> tuple[str, str]:
    recipe = load_recipe(path)
    template = recipe.texts()
    scene = template.scene(0)
    return scene.prompt, template.target("", scene.slots, recipe.edits[edit])


@pytest.mark.parametrize(
    ("subject", "edit", "name", "target"),
    [
        ("летняя улица", "зима=летняя улица -> зимняя улица", "зима", "зимняя улица"),
        ("летняя улица", "летняя улица -> зимняя улица", "зимняя-улица", "зимняя улица"),
        ("夏天的街道", "夏天 -> 冬天", "冬天", "冬天的街道"),
        ("شارع صيفي", "شارع صيفي -> شارع شتوي", "شارع-شتوي", "شارع شتوي"),
        ("गर्मी की सड़क", "गर्मी -> सर्दी", "सर्दी", "सर्दी की सड़क"),
        ("ein Haus", unicodedata.normalize("NFD", "Schnee-weiß=Haus -> Häuschen"), "schnee-weiß", "ein Häuschen"),
    ],
)
def test_a_new_recipe_in_any_script(tmp_path: Path, subject: str, edit: str, name: str, target: str) -> None:
    out = tmp_path / "neu.toml"
    result = command("init", "Улица", "--subject", subject, "--edit", edit, "--out", out)
    assert result.exit_code == 0, result.output
    names = [unicodedata.normalize("NFC", text) for text in (name, subject, target)]
    assert prompts(out, names[0]) == (names[1], names[2])
    assert list(load_recipe(out).edits) == [names[0]]


def test_a_recipe_is_named_after_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, file in (("Зимняя улица", "зимняя-улица.toml"), ("冬", "冬.toml"), ("冬" * 90, None)):
        result = command("init", name, "--subject", "a street", "--edit", "snow=in snow")
        assert result.exit_code == 0, result.output
        assert file is None or (tmp_path / file).exists()
    recipes = [load_recipe(path) for path in tmp_path.glob("*.toml")]
    for names in (
        {RunFolder.default_path(r).name for r in recipes},
        {pointer_of(r, tmp_path / "x") for r in recipes},
    ):
        assert len(names) == 3
    assert len({artifact_key(recipe.name, "model") for recipe in recipes}) == 3
    assert artifact_key("sofas", "model") == "sofas-model"


@pytest.mark.parametrize("name", ["", "-x", "_x", "X", "a b", "a.b", "a/b", "..", "x" * 65, "Зима", "a\u202eb", "🦊"])
def test_names_that_files_cannot_carry_are_refused(name: str) -> None:
    values = load_recipe("demo").model_dump(mode="json", exclude_none=True)
    from flows.config.loading import validate

    with pytest.raises(RecipeError, match="is not an edit's name: use lower-case letters"):
        validate({**values, "edits": {name: {"color": "red"}}})


def test_a_wrong_name_is_refused_where_it_is_typed() -> None:
    with pytest.raises(RecipeError, match="'night!' is not an edit's name"):
        parse_scene_text("a street", ["night!=at night"])


def test_letters_in_pieces_are_the_same_letters() -> None:
    parsed = parse_scene_text(f"{IN_PIECES} {{день}}", ["x=зимний -> летний"], slot_values([f"день={IN_PIECES}, b"]))
    assert parsed.template == "{зимний} {день}" and parsed.slots["день"] == ["зимний", "b"]
    assert parse_photo_text(IN_PIECES, ["x=зимний -> y"]).edits["x"] == {"target": "y"}
    override = f'edits.{IN_PIECES}={{color="red"}}'
    assert "зимний" in load_recipe("demo", [override]).edits
    with pytest.raises(RecipeError, match="'зимний' is there twice"):
        load_recipe("demo", [override, 'edits.зимний={color="red"}'])
    slots = f'scenes.slots={{ {json.dumps(IN_PIECES)} = ["a", "b"] }}'
    recipe = load_recipe(
        "demo", [slots, "scenes.template={зимний}", 'edits={x={"зимний"="c"}}', "evaluation.given={}"]
    )
    assert recipe.texts().slots == ["зимний"]


def test_captions_of_every_script_are_edited() -> None:
    values = {"name": "x", "photos": {}, "edits": {"лев": {"кот": "лев", "猫": "狮子", "cat": "elephant"}}}
    from flows.config.loading import validate

    texts = validate(values).texts()
    edit = values["edits"]["лев"]
    assert texts.target("рыжий кот и котёнок", {}, edit) == "рыжий лев и котёнок"
    assert texts.target("一只猫在沙发上", {}, edit) == "一只狮子在沙发上"
    assert texts.target("a cat", {}, edit) == "an elephant"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_toml_as_editors_save_it(tmp_path: Path, encoding: str, line_end: str) -> None:
    path = tmp_path / "mine.toml"
    text = line_end.join(['extends = "sofas"', 'name = "Диваны"', "[edits]", '"зима" = { color = "white" }'])
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    path.write_bytes((mark + text).encode(encoding))
    recipe = load_recipe(path)
    assert recipe.name == "Диваны" and recipe.edits["зима"] == {"color": "white"}
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes('extends = "sofas"\nname = "Häuser"\n'.encode("latin-1"))
    with pytest.raises(RecipeError, match="line 2 is not UTF-8: save the file in this encoding"):
        load_recipe(path)


def test_a_terminal_without_the_letters_gets_them_escaped(tmp_path: Path) -> None:
    """Windows' consoles and pipes have a few hundred letters."""
    program = "from flows.cli import main; main()"
    words = ["init", "зима", "--subject", "улица", "--edit", "снег=в снегу"]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, env=environment, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    assert rb"\u0437\u0438\u043c\u0430.toml" in result.stdout
    assert (tmp_path / "зима.toml").exists()
