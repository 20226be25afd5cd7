"""A training on photographs whose captions change, are too long, or are missing; and what the import says of them."""

import json
from pathlib import Path

import pytest
from small_photos import captions, write_large_photos
from small_runs import command

from distill.students import load_student

pytestmark = pytest.mark.usefixtures("prefect_server")
NAMES = ("a.png", "b.png", "c.png")
LONG = " ".join(["red"] * 200)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write_large_photos(tmp_path / "photos", *NAMES)
    rows = [{"file_name": name, "caption": f"a red cat, {name[0]}"} for name in NAMES]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def recipe(tiny_sd_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(
        f'name = "mine"\n[teacher]\nid = "{tiny_sd_folder}"\n[photos]\n[edits]\nblue = {{ red = "blue" }}\n'
        '[training]\npreset = "short"\nsteps = 2\nbatch_size = 2\ncheckpoint_every = 1\nsample_every = 9\n'
    )
    return path


def bring_in(source: Path) -> str:
    out = source.parent / "set"
    result = command("import-photos", source, "--size", "64", "--out", out)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_import_says_what_it_found(source: Path) -> None:
    said = bring_in(source)
    assert "images   3, 3 new" in said
    assert "captions 3 of 3 images have one" in said
    assert "a.png: a red cat, a" in said and "b.png: a red cat, b" in said and "c.png:" not in said
    (source / "metadata.jsonl").unlink()
    (source / "b.txt").write_bytes("caf\xe9 \x1b[31m".encode("latin-1"))
    (source / "notes.txt").write_text("x")
    (source / "c.png").unlink()
    said = bring_in(source)
    assert "images   2, 1 removed, 2 with another caption" in said
    assert "captions 1 of 2 images have one" in said and "b.png: café [31m" in said
    assert "rejects  1, listed" in said
    assert "note: 1 files of captions are not UTF-8, such as b.txt" in said
    assert "images   2, all of them there already" in bring_in(source)


def test_a_training_on_other_captions_is_refused(source: Path, recipe: Path, tmp_path: Path) -> None:
    train = ["distill", recipe, "--data", tmp_path / "set", "--out", tmp_path / "run"]
    bring_in(source)
    assert command(*train).exit_code == 0
    assert "nothing to train" in command(*train).output
    (source / "b.txt").write_text("unused: the metadata counts")
    bring_in(source)
    assert "nothing to train" in command(*train).output
    rows = (source / "metadata.jsonl").read_text().replace("a red cat, b", "a red dog")
    (source / "metadata.jsonl").write_text(rows)
    bring_in(source)
    for more in ([], ["--set", "training.steps=3"]):
        refused = command(*train, *more)
        assert refused.exit_code == 2 and len(refused.stderr.strip().splitlines()) == 1
        assert "was trained on other images, captions or slots than the dataset holds now" in refused.stderr
        assert "choose another run folder" in refused.stderr
    (source / "metadata.jsonl").write_text(rows.replace("a red dog", "a red cat, b"))
    bring_in(source)
    assert command(*train, "--set", "training.steps=3").exit_code == 0
    assert command(*train[:-1], tmp_path / "other").exit_code == 0


@pytest.mark.parametrize("change", ["more", "fewer", "replaced"])
def test_a_training_on_other_photographs_is_refused(change: str, source: Path, recipe: Path, tmp_path: Path) -> None:
    train = ["distill", recipe, "--data", tmp_path / "set", "--out", tmp_path / "run"]
    bring_in(source)
    assert command(*train).exit_code == 0
    if change == "more":
        write_large_photos(source, "d.png")
    elif change == "fewer":
        (source / "c.png").unlink()
    else:
        write_large_photos(source, "other.png")
        (source / "other.png").replace(source / "a.png")
    bring_in(source)
    refused = command(*train)
    assert refused.exit_code == 2 and "was trained on other images, captions or slots" in refused.stderr


def test_long_captions_are_left_out_by_name(source: Path, recipe: Path, tmp_path: Path) -> None:
    (source / "metadata.jsonl").unlink()
    (source / "a.txt").write_text(LONG)
    (source / "b.txt").write_text("a red cat")
    bring_in(source)
    result = command("distill", recipe, "--data", tmp_path / "set", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "1 photographs are left out, such as a.png" in result.output
    assert "set photos.long_captions=cut" in result.output
    assert "1 of 2 photographs have no caption" in result.output
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "long_captions.jsonl").read_text().splitlines()]
    assert row["name"] == "a.png" and "202 tokens" in row["reason"]
    assert load_student(tmp_path / "run" / "student").edits == {"blue": "a blue cat"}


def test_long_captions_are_cut_if_asked(source: Path, recipe: Path, tmp_path: Path) -> None:
    (source / "metadata.jsonl").unlink()
    for name in "abc":
        (source / f"{name}.txt").write_text(LONG)
    bring_in(source)
    train = ["distill", recipe, "--data", tmp_path / "set", "--out", tmp_path / "run"]
    refused = command(*train)
    assert refused.exit_code == 2
    assert "the captions of all photographs are too long: that of a.png has" in refused.stderr
    result = command(*train, "--set", "photos.long_captions=cut")
    assert result.exit_code == 0, result.output
    assert "the captions of 3 photographs are cut, such as a.png" in result.output
    (text,) = load_student(tmp_path / "run" / "student").edits.values()
    assert set(text.split()) == {"blue"} and len(text.split()) == 75  # of 77 tokens; two mark the ends
    assert captions(tmp_path / "set")["a.png"] == LONG
