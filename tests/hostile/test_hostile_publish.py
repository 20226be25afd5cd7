"""What is published is a list of files, and carries neither the owner's paths nor passwords."""

import json
from pathlib import Path

import pytest

from flows.config.loading import load_recipe, validate
from flows.config.toml import parse_toml
from flows.publish import _DATASET_FILES, _RUN_FILES, _files, _public_json, _public_recipe
from synth.dataset.store import Store
from synth.errors import DatasetError, RecipeError, RunError
from synth.templates import public_name
from synth.urls import has_credentials, redact


def test_nothing_but_what_is_listed_goes_along(tmp_path: Path) -> None:
    sent = {"README.md", "data/train-00000.parquet", "grid.png"}
    kept = {"private.png", "data/me.png", "data/x/train-00000.parquet", "data/mine.parquet", "sub/grid.png", ".env"}
    for name in sent | kept | {"student/deep/x.json"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert set(_files(tmp_path, _DATASET_FILES)) == sent
    assert set(_files(tmp_path, _RUN_FILES)) == {"README.md", "grid.png"}


@pytest.mark.parametrize("place", ["student", "student/config.json"])
def test_no_symlink_is_followed(tmp_path: Path, place: str) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    (folder / place).parent.mkdir(parents=True)
    outside.mkdir()
    (outside / "config.json").write_text("secret")
    (folder / place).symlink_to(outside if place == "student" else outside / "config.json")
    with pytest.raises(RunError, match="symlink"):
        _files(folder, _RUN_FILES)


def test_a_recipe_travels_without_its_owner_s_machines() -> None:
    recipe = load_recipe(
        "sofas", ['teacher.id="/home/me/models/sd"', 'operations.remote_dir="s3://mine/runs"', "teacher.device=cpu"]
    )
    sent = _public_recipe(recipe).decode()
    assert not [word for word in ("/home", "s3://", "operations", "tracker", "device") if word in sent]
    assert validate(parse_toml(sent)).teacher.id == "sd"


def test_a_students_config_names_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"_name_or_path": "/home/me/runs/sofas/averaged", "edit_names": ["red / blue"], "size": [4, 4]}')
    assert json.loads(_public_json(path)) == {
        "_name_or_path": "averaged",
        "edit_names": ["red / blue"],
        "size": [4, 4],
    }
    path.write_text("{")
    with pytest.raises(RunError, match=r"config\.json"):
        _public_json(path)


@pytest.mark.parametrize(
    ("name", "public"),
    [("/data/models/sd/", "sd"), (r"C:\models\sd", "sd"), ("./sd", "sd"), ("~/sd", "sd"), ("me/sd-1-5", "me/sd-1-5")],
)
def test_a_card_names_a_local_teacher_by_its_last_folder(name: str, public: str) -> None:
    assert public_name(name) == public


@pytest.mark.parametrize(
    "url",
    [
        *("s3://key:hush@bucket/x", "https://me:hush@host/x", "https://hush@host/x", "s3://key:hu/hush@bucket"),
        *("https://host/x?X-Amz-Signature=hush", "https://host/x?a=1&token=hush", "filecache::s3://k:hush@b/x"),
    ],
)
def test_a_url_with_credentials_is_refused_without_them(url: str) -> None:
    assert has_credentials(url) and "hush" not in redact(f"cannot open {url}!")
    with pytest.raises(DatasetError, match="has credentials in it") as refused:
        Store(url)
    assert "hush" not in str(refused.value)
    with pytest.raises(RecipeError, match="has credentials in it") as denied:
        load_recipe("demo", [f'operations.remote_dir="{url}"'])
    assert "hush" not in str(denied.value)


@pytest.mark.parametrize(
    "url", ["s3://bucket/x", "hf://datasets/me/x@main", "ray://host:10001", "http://host:80/a@b", "memory://a"]
)
def test_other_urls_are_not(url: str) -> None:
    assert not has_credentials(url) and redact(url) == url
